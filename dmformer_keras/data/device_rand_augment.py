"""RandAugment and erasing on the device: whole batches, each image with what was drawn for it.

Operations of one kind are done to all images at once, with values that change nothing where
an image has another operation. Results are those of Pillow, which rounds down where it blends
and interpolates.
"""

import numpy as np
from keras import ops

from dmformer_keras.data.images import LUMINANCE
from dmformer_keras.data.rand_augment import (
    FILL,
    MOVES,
    STRONGEST,
    enhancement,
    posterized_bits,
    solarized_from,
)

_LEVELS = 256
_TABLES = ("autocontrast", "equalize", "posterize", "solarize")
# Pillow's filter SMOOTH, which sharpness blends with.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
# In float32 a whole number may be a little too small.
_TINY = 1e-3


def operated(batch, all_drawn, magnitude):
    """Applies RandAugment's operations to a batch; returns a tensor of whole numbers."""
    batch = ops.clip(ops.round(batch), 0, _LEVELS - 1)
    for drawn in zip(*all_drawn, strict=True):
        names = np.array([name for name, _ in drawn])
        signs = np.array([sign for _, sign in drawn])
        batch = _one_round(batch, names, signs, magnitude / STRONGEST)
    return batch


def with_noise(batch, drawn):
    """Replaces a box of each image by its noise; returns a tensor, as `batch`."""
    if not any(box is not None for box in drawn):
        return batch
    noise = np.zeros(tuple(batch.shape), np.uint8)
    covered = np.zeros((*batch.shape[:3], 1), bool)
    for number, box in enumerate(drawn):
        if box is not None:
            top, left, values = box
            place = number, slice(top, top + len(values)), slice(left, left + values.shape[1])
            noise[place], covered[place] = values, True
    return ops.where(covered, ops.cast(ops.convert_to_tensor(noise), batch.dtype), batch)


def transformed(batch, matrices, offsets):
    """Moves the points of each image, what is uncovered the nearest edge's; returns a tensor, as
    `batch`.
    """
    # Keras counts from the middle of the first pixel, and Pillow from its corner.
    offsets = offsets + matrices.sum(axis=2) / 2 - 0.5
    rows = np.concatenate([matrices, offsets[..., None]], axis=2).reshape(-1, 6)
    transforms = np.pad(rows, ((0, 0), (0, 2))).astype(np.float32)
    return ops.image.affine_transform(
        batch, ops.convert_to_tensor(transforms), fill_mode="nearest", data_format="channels_last"
    )


def _one_round(batch, names, signs, strength):
    factors = enhancement(strength, signs)
    if np.isin(names, _TABLES).any():
        batch = _by_tables(batch, names, strength)
    if np.isin(names, ("color", "contrast", "brightness")).any():
        batch = _recolored(batch, names, factors)
    if (names == "sharpness").any():
        batch = _blended(_smoothed(batch), batch, np.where(names == "sharpness", factors, 1.0))
    if np.isin(names, list(MOVES)).any():
        batch = _moved(batch, names, signs * strength)
    return batch


def _by_tables(batch, names, strength):
    """Operations that map each value of a channel to another value."""
    number, _, _, channels = batch.shape
    places = np.arange(number * channels, dtype="int32").reshape(number, 1, 1, channels) * _LEVELS
    indexes = ops.cast(batch, "int32") + ops.convert_to_tensor(places)
    counts = ops.bincount(ops.reshape(indexes, (-1,)), minlength=number * channels * _LEVELS)
    counts = ops.convert_to_numpy(counts).reshape(number, channels, _LEVELS)
    tables = np.stack([
        [_table(name, one, strength) for one in own]
        for name, own in zip(names, counts, strict=True)
    ])  # fmt: skip
    return ops.take(ops.convert_to_tensor(tables.reshape(-1).astype("float32")), indexes)


def _table(name, counts, strength):
    """The new value of each of 256, of how often each occurs: as Pillow's `ImageOps` has it."""
    values = np.arange(_LEVELS)
    occurring = values[counts > 0]
    if name == "autocontrast" and occurring[0] < occurring[-1]:
        scale = (_LEVELS - 1) / (occurring[-1] - occurring[0])
        return (values * scale - occurring[0] * scale).clip(0, _LEVELS - 1).astype(int)
    if name == "equalize":
        step = (counts.sum() - counts[occurring[-1]]) // (_LEVELS - 1)
        if len(occurring) > 1 and step:
            before = np.concatenate([[0], counts.cumsum()[:-1]])
            return ((step // 2 + before) // step).clip(0, _LEVELS - 1)
    if name == "posterize":
        return values & ~(2 ** (8 - posterized_bits(strength)) - 1)
    if name == "solarize":
        return np.where(values < solarized_from(strength), values, _LEVELS - 1 - values)
    return values


def _recolored(batch, names, factors):
    """Blends with black, with the image's mean gray, or with its gray image."""
    gray = batch
    if batch.shape[-1] == 3:
        luminance = ops.convert_to_tensor(np.array(LUMINANCE, np.float32).reshape(1, 1, 1, 3))
        gray = ops.floor(ops.sum(batch * luminance, axis=-1, keepdims=True) + 0.5 + _TINY)
        batch = _blended(gray, batch, np.where(names == "color", factors, 1.0))
    # Other numbers of channels are images of one each.
    mean = ops.floor(ops.mean(gray, axis=(1, 2), keepdims=True) + 0.5)
    batch = _blended(mean, batch, np.where(names == "contrast", factors, 1.0))
    return _blended(0.0, batch, np.where(names == "brightness", factors, 1.0))


def _smoothed(batch):
    channels = batch.shape[-1]
    kernel = np.repeat(_SMOOTH[:, :, None, None], channels, axis=2)
    inner = ops.depthwise_conv(batch, kernel, padding="same", data_format="channels_last")
    edge = np.ones((1, *batch.shape[1:3], 1), bool)
    edge[:, 1:-1, 1:-1] = False
    return ops.where(edge, batch, ops.floor(inner + 0.5 + _TINY))


def _blended(other, batch, factors):
    """`other` where a factor is 0, the image where it is 1; rounded down, as Pillow does."""
    factors = ops.convert_to_tensor(factors.reshape(-1, 1, 1, 1).astype("float32"))
    mixed = other + factors * (batch - other)
    return ops.where(factors == 1, batch, ops.floor(ops.clip(mixed, 0, _LEVELS - 1) + _TINY))


def _moved(batch, names, amounts):
    _, height, width, _ = batch.shape
    still = (1, 0, 0, 0, 1, 0)
    moves = np.array([
        MOVES[name](amount, width, height) if name in MOVES else still
        for name, amount in zip(names, amounts, strict=True)
    ])  # fmt: skip
    rows, columns = np.mgrid[:height, :width] + 0.5
    points = np.stack([columns, rows, np.ones_like(rows)])
    x, y = np.einsum("npk,khw->pnhw", moves.reshape(-1, 2, 3), points)
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[..., None]
    matrices, offsets = moves.reshape(-1, 2, 3)[..., :2], moves.reshape(-1, 2, 3)[..., 2]
    moved = transformed(batch, matrices, offsets)
    return ops.where(inside, ops.floor(moved + _TINY), float(FILL))
