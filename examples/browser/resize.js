// Resizes to the model's size as Python does. A canvas scales differently in each browser, and skips
// pixels when it makes a photograph much smaller.

// The largest centered part of the model's aspect ratio, bilinear and antialiased, as Pillow does.
export function fitted({ pixels, width, height, channels }, newHeight, newWidth) {
  const boxWidth = Math.min(width, (height * newWidth) / newHeight);
  const boxHeight = Math.min(height, (width * newHeight) / newWidth);
  const columns = weights((width - boxWidth) / 2, boxWidth, newWidth, width);
  const rows = weights((height - boxHeight) / 2, boxHeight, newHeight, height);
  const narrow = new Uint8Array(height * newWidth * channels);
  for (let y = 0; y < height; y++) {
    const from = y * width * channels;
    const to = y * newWidth * channels;
    average(pixels, from, channels, columns, channels, narrow, to, channels);
  }
  const result = new Uint8Array(newHeight * newWidth * channels);
  const stride = newWidth * channels;
  for (let x = 0; x < newWidth; x++) {
    average(narrow, x * channels, stride, rows, channels, result, x * channels, stride);
  }
  return result;
}

// For each of `count` new pixels: the first old pixel that it averages over, and their weights.
function weights(start, length, count, limit) {
  const scale = length / count;
  const reach = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const center = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(limit, Math.trunc(center + reach + 0.5));
    const shares = Array.from({ length: end - first }, (_, j) =>
      Math.max(0, 1 - Math.abs((first + j + 0.5 - center) / reach)),
    );
    const sum = shares.reduce((total, share) => total + share, 0);
    return { first, shares: shares.map((share) => share / sum) };
  });
}

// Averages along one line of pixels, which begins at `from` and `to`.
function average(source, from, step, taps, channels, target, to, targetStep) {
  for (const [i, { first, shares }] of taps.entries()) {
    for (let band = 0; band < channels; band++) {
      let sum = 0.5;
      for (let j = 0; j < shares.length; j++) {
        sum += shares[j] * source[from + (first + j) * step + band];
      }
      target[to + i * targetStep + band] = sum;
    }
  }
}
