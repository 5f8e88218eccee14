"""`Augmentation` on the device: what was drawn for each image, done to a whole batch at once.

Cutting out and resizing is a product with two small matrices an image, whose rows are the
weights by which Pillow would add up pixels: the results are the same to a level or two of 255.
"""

import numpy as np
from keras import ops

from dmformer_keras.data.augment import color_matrix
from dmformer_keras.data.device_rand_augment import operated, transformed, with_noise
from dmformer_keras.data.images import evaluation_box

# Batches are padded to multiples of this, so that few different shapes are compiled.
_SIDE = 32


def stacked(images):
    """Images of different sizes as one array, the rest filled with 0; returns a uint8 array
    (number, largest height, largest width, channels), the sides rounded up.
    """
    height, width = (
        -(-max(image.shape[axis] for image in images) // _SIDE) * _SIDE for axis in (0, 1)
    )
    batch = np.zeros((len(images), height, width, images[0].shape[-1]), np.uint8)
    for place, image in zip(batch, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return batch


def changed(images, all_changes, image_size, magnitude=0):
    """Does to images what was drawn for them, by the backend and on its device; returns a tensor,
    float32 (number, *image_size, channels), 0..255.
    """
    batch = ops.cast(ops.convert_to_tensor(stacked(images)), "float32")
    boxes = np.array([
        evaluation_box(image, *image_size, "crop", 1.0) if changes.box is None else changes.box
        for image, changes in zip(images, all_changes, strict=True)
    ])  # fmt: skip
    sizes = np.array([image.shape[:2] for image in images])
    rows = _weights(boxes[:, 1::2], sizes[:, 0], image_size[0], batch.shape[1])
    columns = _weights(boxes[:, ::2], sizes[:, 1], image_size[1], batch.shape[2])
    batch = ops.einsum("bij,bjkc->bikc", rows, batch)
    batch = ops.einsum("blk,bikc->bilc", columns, batch)
    if all_changes[0].move is not None:
        matrices, offsets = zip(*(changes.move for changes in all_changes), strict=True)
        batch = transformed(batch, np.array(matrices), np.array(offsets))
    flips = np.array([changes.flip for changes in all_changes])[:, None, None, None]
    if flips.any():
        batch = ops.where(flips, ops.flip(batch, axis=2), batch)
    if all_changes[0].colors is not None:
        batch = _recolored(batch, [changes.colors for changes in all_changes])
    if all_changes[0].operations:
        batch = operated(batch, [changes.operations for changes in all_changes], magnitude)
    return with_noise(batch, [changes.noise for changes in all_changes])


def mixed(images, kept):
    """Mixes each image with the one at its place from the batch's end; returns a tensor, as
    `images`.
    """
    kept = ops.convert_to_tensor(kept, dtype="float32")
    return kept * images + (1 - kept) * ops.flip(images, axis=0)


def _weights(spans, sizes, target, padded):
    """(number, target, padded): how much of each old pixel is in each new one, antialiased."""
    low, high, size = (
        ops.convert_to_tensor(part[:, None, None], dtype="float32")
        for part in (spans[:, 0], spans[:, 1], sizes)
    )
    scale = (high - low) / target
    places = ops.reshape(ops.arange(target, dtype="float32") + 0.5, (1, -1, 1))
    pixels = ops.reshape(ops.arange(padded, dtype="float32") + 0.5, (1, 1, -1))
    distance = ops.abs(pixels - (low + scale * places)) / ops.maximum(scale, 1.0)
    weights = ops.maximum(1 - distance, 0.0) * ops.cast(pixels < size, "float32")
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def _recolored(batch, all_colors):
    matrices, shares = zip(
        *(color_matrix(colors, batch.shape[-1]) for colors in all_colors), strict=True
    )
    shares = ops.convert_to_tensor(np.array(shares)[:, None, None, None], dtype="float32")
    offset = shares * ops.mean(batch, axis=(1, 2, 3), keepdims=True)
    matrices = ops.convert_to_tensor(np.stack(matrices), dtype="float32")
    return ops.clip(ops.einsum("bijk,bck->bijc", batch, matrices) + offset, 0, 255)
