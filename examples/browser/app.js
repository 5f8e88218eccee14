// Runs model.onnx, as dmformer_keras.export.to_onnx writes it, on an image that the user picks.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { fitted } from "./resize.js";

const page = Object.fromEntries(
  ["file", "status", "picture", "classes"].map((id) => [id, document.getElementById(id)]),
);

async function main() {
  const [description, session] = await loadModel();
  page.file.addEventListener("change", () => {
    const [file] = page.file.files;
    if (file) reporting(() => showAnswer(file, description, session));
  });
  page.file.disabled = false;
  page.status.textContent = `${description.name} is ready: choose an image.`;
}

async function reporting(action) {
  try {
    await action();
  } catch (error) {
    page.status.textContent = error.message;
  }
}

async function loadModel() {
  const response = await fetch("model.json");
  if (!response.ok) {
    throw new Error("There is no model.json beside this page; see below how to write it.");
  }
  const description = await response.json();
  const channels = description.input.shape[2];
  if (!["classify", "segment"].includes(description.task) || ![1, 3].includes(channels)) {
    throw new Error("This page needs a classifier or segmenter of grey or RGB images.");
  }
  const session = await ort.InferenceSession.create("model.onnx", {
    executionProviders: ["wasm"],
  });
  return [description, session];
}

async function showAnswer(file, description, session) {
  const [height, width, channels] = description.input.shape;
  const pixels = fitted(await uprightPixels(file, channels), height, width);
  const { mean, std } = description.input;
  const values = Float32Array.from(pixels, (pixel) => (pixel - mean) / std);
  page.status.textContent = "Running";
  const start = performance.now();
  const results = await session.run({
    [session.inputNames[0]]: new ort.Tensor("float32", values, [1, height, width, channels]),
  });
  const outputs = results[session.outputNames[0]];
  page.status.textContent = `${file.name}: ${Math.round(performance.now() - start)} ms`;
  const count = "threshold" in description.output ? 2 : outputs.dims.at(-1);
  const names = description.class_names ?? [...Array(count).keys()].map(String);
  if (description.task === "classify") {
    drawPicture(pixels, height, width, channels);
    showClasses(probabilities(outputs.data, description), names);
  } else {
    const colors = description.class_colors ?? someColors(names.length);
    const mask = likeliest(outputs, height, width);
    drawPicture(pixels, height, width, channels, mask, colors);
    showClasses(shares(mask, names.length), names, colors);
  }
}

// The image, turned upright, on white where it is transparent.
async function uprightPixels(file, channels) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new Error(`${file.name} is not an image that this browser can read.`);
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const { data: rgba } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    if (channels === 1) {
      pixels[to++] = 0.299 * rgba[from] + 0.587 * rgba[from + 1] + 0.114 * rgba[from + 2] + 0.5;
    } else {
      pixels[to++] = rgba[from];
      pixels[to++] = rgba[from + 1];
      pixels[to++] = rgba[from + 2];
    }
  }
  return { pixels, width, height, channels };
}

function probabilities(outputs, description) {
  if ("threshold" in description.output) {
    // One output, of two classes.
    const [value] = outputs;
    const second = description.output.activation === "linear" ? 1 / (1 + Math.exp(-value)) : value;
    return [1 - second, second];
  }
  if (description.output.activation !== "linear") return outputs;
  const highest = Math.max(...outputs);
  const exponentials = outputs.map((value) => Math.exp(value - highest));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  return exponentials.map((value) => value / sum);
}

// The class of each pixel; a smaller map of logits is enlarged.
function likeliest({ data, dims: [, rows, columns, classes] }, height, width) {
  const mask = new Uint16Array(height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const row = Math.floor(((y + 0.5) * rows) / height);
      const column = Math.floor(((x + 0.5) * columns) / width);
      const first = (row * columns + column) * classes;
      let best = 0;
      for (let label = 1; label < classes; label++) {
        if (data[first + label] > data[first + best]) best = label;
      }
      mask[y * width + x] = best;
    }
  }
  return mask;
}

function shares(mask, count) {
  const counts = new Float64Array(count);
  for (const label of mask) counts[label] += 1 / mask.length;
  return counts;
}

// The picture as the model sees it, blended with the colors of the classes.
function drawPicture(pixels, height, width, channels, mask, colors) {
  Object.assign(page.picture, { width, height, hidden: false });
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let band = 0; band < 3; band++) {
      const value = pixels[i * channels + (channels === 1 ? 0 : band)];
      image.data[4 * i + band] = mask ? (value + colors[mask[i]][band]) / 2 : value;
    }
    image.data[4 * i + 3] = 255;
  }
  page.picture.getContext("2d").putImageData(image, 0, 0);
}

// The classes that occur, the largest first: at most five without colors, else all of them.
function showClasses(values, names, colors) {
  const order = [...values.keys()].sort((a, b) => values[b] - values[a]);
  const shown = colors ? order.filter((label) => values[label] > 0) : order.slice(0, 5);
  page.classes.replaceChildren(
    ...shown.map((label) => {
      const row = document.createElement("tr");
      row.insertCell().textContent = `${(100 * values[label]).toFixed(1)} %`;
      const name = row.insertCell();
      if (colors) {
        const swatch = document.createElement("span");
        swatch.className = "swatch";
        swatch.style.background = `rgb(${colors[label]})`;
        name.append(swatch, " ");
      }
      name.append(names[label]);
      return row;
    }),
  );
}

// Colors for a model that has none: black, then colors that differ clearly.
function someColors(count) {
  return Array.from({ length: count }, (_, i) => [37, 101, 173].map((step) => (step * i) % 256));
}

reporting(main);
