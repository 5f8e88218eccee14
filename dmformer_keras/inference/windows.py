"""Segmentation of real images: any size, in bounded memory, without seams.

```python
from dmformer_keras.data import load_image
from dmformer_keras.inference import segment_image

mask = segment_image(model, load_image("street.jpg"))  # uint8 (height, width), class indexes
```

A large image is cut into windows that overlap. A network knows least about what lies at
the edge of its input, where it sees zeros instead of the surroundings; so a quarter of the
overlap is discarded on each inner side of a window, and a linear ramp leads from one
window to the next over the half that remains. Windows are worked on in rows from the top;
what no later window touches is handed on at once, so that no more than a band of
probabilities, as high as one window, is held.

Windows begin at multiples of `STRIDE`, the coarsest stride of the feature maps. The cells
of each map then lie on the same pixels as those of the whole image. What a network knows
of the whole image at once (the gate of a DMFormer block, a group norm, pooled parts), it
knows of the window instead: such masks differ a little from those of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmformer_keras.checks import (
    check_bool,
    check_positive_int,
    check_rate,
    is_finite_number,
    is_positive_int,
)
from dmformer_keras.data.images import PIXEL_LIMIT, resize_image
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.inference.model_outputs import predicted
from dmformer_keras.type_names import ImageSize

# The coarsest stride of a DMFormer's feature maps, and the smallest side it takes.
STRIDE = 32
# What `window=None` does: images of up to so many pixels whole, larger ones in windows of
# this side, that of the crops which segmentation models are mostly trained on.
WHOLE_IMAGE_PIXELS = 1024 * 1024
DEFAULT_WINDOW = 512

# In 16 bits a softmax misses the sum of 1 by up to 0.002. Logits do not come near it.
_SUM_TOLERANCE = 0.01


def segment_image(
    model: Any,
    image: NDArray[np.uint8],
    *,
    window: ImageSize | None = None,
    overlap: float = 0.5,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    batch_size: int = 1,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Names the class of each pixel of an image.

    Beyond what the model, the image at each scale and the mask take, the memory is that of
    bands of probabilities, whatever the image's height: some `8 * window height * image
    width * classes` bytes, and up to twice as much for each further scale, and for `flip`.

    Args:
        model: Keras model from images `(1, height, width, channels)` in 0..255, of any
            size or of a fixed one, to logits or probabilities of a softmax `(1, height,
            width, classes)`. A map of less height and width is resized, bilinearly.
        image: uint8 array (height, width, channels), as `dmformer_keras.data.load_image`
            reads it, of any size.
        window: int, or (height, width), in pixels, at least 32: the image is cut into
            windows of this size, and padded where it is smaller. Multiples of 32 keep
            the feature maps where those of the whole image are. `None` takes the model's
            fixed size if it has one, else shows it the whole image if that has at most
            1024x1024 pixels, and windows of 512x512 otherwise. JAX compiles, and
            TensorFlow traces, the model for each new size: for many images of many
            sizes, give a window.
        overlap: float in `[0, 1)`, the part of a window that it shares at least with the
            next one. The windows' positions are multiples of 32 pixels; two neighbors
            never lie nearer than that.
        flip: bool. Whether to average over the image and its mirror image.
        scales: sequence of positive floats. The image is segmented at each of these
            multiples of its size, and the probabilities are averaged.
        batch_size: positive int, windows shown to the model at once.

    Returns:
        uint8 array (height, width) of class indexes, of the likeliest class or the lowest
        of several; uint16 for a model of more than 255 classes.

    Raises:
        DMFormerError: an argument is wrong, the image does not fit the model, the model's
            output is no map of classes, or it is not finite.

    Example:

    >>> model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(5, 1)])
    >>> image = np.random.default_rng(0).integers(0, 256, (100, 300, 3), dtype="uint8")
    >>> mask = segment_image(model, image, window=64)
    >>> mask.shape, mask.dtype.name, bool((mask == segment_image(model, image)).all())
    ((100, 300), 'uint8', True)
    """
    bands = _probability_bands(model, image, window, overlap, flip, scales, batch_size)
    return np.concatenate(list(map(_likeliest, bands)))


def segment_probabilities(
    model: Any,
    image: NDArray[np.uint8],
    *,
    window: ImageSize | None = None,
    overlap: float = 0.5,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    batch_size: int = 1,
) -> NDArray[np.float32]:
    """Gives the probability of each class at each pixel of an image.

    It holds all of them, `4 * height * width * classes` bytes, and the memory that
    `segment_image` needs.

    Args:
        model, image, window, overlap, flip, scales, batch_size: as in `segment_image`.

    Returns:
        float32 array (height, width, classes), of sum 1 at each pixel.

    Raises:
        DMFormerError: as `segment_image`.

    Example:

    >>> model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(5, 1)])
    >>> probabilities = segment_probabilities(model, np.zeros((20, 50, 3), "uint8"), flip=True)
    >>> probabilities.shape, probabilities.dtype.name, probabilities[3, 4].sum().round(3)
    ((20, 50, 5), 'float32', np.float32(1.0))
    """
    bands = _probability_bands(model, image, window, overlap, flip, scales, batch_size)
    result: Any = None
    done = 0
    for band in bands:
        if result is None:
            result = np.empty((*image.shape[:2], band.shape[-1]), np.float32)
        result[done : done + len(band)] = band
        done += len(band)
    return result


def _likeliest(probabilities):
    # 255 stays free: it marks ignored pixels in masks of 8 bits.
    dtype = np.uint8 if probabilities.shape[-1] <= 255 else np.uint16
    return probabilities.argmax(axis=-1).astype(dtype)


def _probability_bands(model, image, window, overlap, flip, scales, batch_size):
    """Checks everything; returns an iterator over the rows of the probabilities, in bands."""
    input_size = _checked_input_size(model)
    _check_image(image, model)
    window = _checked_window(window, input_size)
    check_rate("overlap", overlap)
    check_bool("flip", flip)
    check_positive_int("batch_size", batch_size)
    height, width = image.shape[:2]
    views = []
    for scale in _checked_scales(scales):
        size = tuple(max(1, round(side * scale)) for side in (height, width))
        if scale > 1 and math.prod(size) > PIXEL_LIMIT:
            raise DMFormerError(
                f"scales must keep an image under {PIXEL_LIMIT:,} pixels: {shown(scale)} makes it "
                f"{size[1]:,} x {size[0]:,}."
            )
        seen = image if size == (height, width) else resize_image(image, size, "squash")
        for mirrored in (False, True) if flip else (False,):
            bands = _window_bands(
                model, _mirrored(seen) if mirrored else seen, window, overlap, batch_size
            )
            if size != (height, width):
                bands = _resized_bands(bands, size[0], height, width)
            views.append(map(_mirrored, bands) if mirrored else bands)
    return views[0] if len(views) == 1 else _mean_bands(views)


def _mirrored(image):
    return image[:, ::-1]


def _mean_bands(views):
    """Yields the mean of several iterators over bands, which cut the same rows differently."""
    bands = [next(view) for view in views]
    while bands[0] is not None:
        rows = min(map(len, bands))
        yield sum(band[:rows] for band in bands) / np.float32(len(bands))
        bands = [
            band[rows:] if len(band) > rows else next(view, None)
            for band, view in zip(bands, views, strict=True)
        ]


def _resized_bands(bands, old_height, height, width):
    """Yields bands of rows of another height and width, as soon as their sources are there."""
    low, high, fraction = _linear_sources(old_height, height)
    held, first, done = None, 0, 0  # the rows that are held begin with number `first`
    for band in bands:
        band = _resized(band, width, axis=1)
        held = band if held is None else np.concatenate([held, band])
        ready = int(np.searchsorted(high, first + len(held)))
        for start in range(done, ready, STRIDE):  # few at once, for each takes several copies
            rows = slice(start, min(start + STRIDE, ready))
            below, above = held[low[rows] - first], held[high[rows] - first]
            yield _between(below, above, fraction[rows, None, None])
        done = ready
        spent = len(held) if done == height else min(int(low[done]) - first, len(held))
        held, first = held[spent:].copy(), first + spent


def _window_bands(model, image, window, overlap, batch_size):
    """Yields the rows of an image's probabilities from windows, each band once it is final."""
    height, width = image.shape[:2]
    window = _window_for((height, width), window)
    tops, lefts = (
        _positions(side, window_side, overlap)
        for side, window_side in zip((height, width), window, strict=True)
    )
    row_weights = [
        _weights(tops, index, window[0], height)[:, None, None] for index in range(len(tops))
    ]
    column_weights = [
        _weights(lefts, index, window[1], width)[:, None] for index in range(len(lefts))
    ]
    carried = None  # the sums of rows that the next windows touch too
    for top, next_top, by_row in zip(tops, [*tops[1:], height], row_weights, strict=True):
        band = None
        probabilities = _predictions(model, image, top, lefts, window, batch_size)
        for left, by_column, values in zip(lefts, column_weights, probabilities, strict=True):
            if band is None:
                band = np.zeros((len(by_row), width, values.shape[-1]), np.float32)
                if carried is not None:
                    band[: len(carried)] = carried
                    carried = None
            used_rows, used_columns = _extent(by_row), _extent(by_column)
            columns = slice(left + used_columns.start, left + used_columns.stop)
            band[used_rows, columns] += values[used_rows, used_columns] * (
                by_row[used_rows] * by_column[used_columns]
            )
        carried = band[next_top - top :].copy()
        yield band[: next_top - top]


def _positions(side, window, overlap):
    """Returns where windows begin along one axis: multiples of `STRIDE` from 0.

    The last one is shifted back to where it just covers the end. It may stick out by less
    than `STRIDE` pixels, for it keeps to the grid.
    """
    step = max(STRIDE, math.floor(window * (1 - overlap) / STRIDE + 1e-6) * STRIDE)
    last = max(0, math.ceil((side - window) / STRIDE) * STRIDE)
    return [*range(0, last, step), last]


def _weights(positions, index, window, side):
    """Returns the weights of a window's pixels along one axis, without those outside: a float32
    array, of the window's length or up to the image's end.

    From each window to the next a ramp leads from 0 to 1; a window weighs what the ramp before it
    has risen, less what the one behind it has. So all weights sum to 1.
    """
    start = positions[index]
    pixels = np.arange(start, min(start + window, side)) + 0.5

    def ramp(number):
        overlap = positions[number - 1] + window - positions[number]
        if overlap == 0:
            return (pixels > positions[number]).astype(np.float64)
        return np.clip((pixels - positions[number] - overlap / 4) / (overlap / 2), 0, 1)

    risen = ramp(index) if index > 0 else np.ones(len(pixels))
    if index + 1 < len(positions):
        risen = risen - ramp(index + 1)
    return risen.astype(np.float32)


def _extent(weights):
    """Returns the slice outside of which the weights are 0: the rest is not even looked at."""
    used = np.flatnonzero(weights)
    return slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)


def _predictions(model, image, top, lefts, window, batch_size):
    """Yields the probabilities in each window of a row, float32 (*window, classes)."""
    batch_size = min(batch_size, len(lefts))
    for first in range(0, len(lefts), batch_size):
        windows = [_cut(image, top, left, window) for left in lefts[first : first + batch_size]]
        count = len(windows)
        # Always the same number, because another one would be compiled again.
        windows += windows[-1:] * (batch_size - count)
        yield from _probabilities(model, np.stack(windows).astype(np.float32))[:count]


def _cut(image, top, left, window):
    """Returns a window of an image, which repeats the image's edge where it sticks out."""
    height, width = window
    part = image[top : top + height, left : left + width]
    missing = (0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0)
    return np.pad(part, missing, mode="edge")


def _probabilities(model, images):
    """Returns a model's probabilities, float32 (batch, height, width, classes)."""
    outputs = predicted(model, images)
    shape = getattr(outputs, "shape", ())
    if len(shape) != 4 or shape[0] != len(images) or shape[-1] < 2:
        raise _no_map(tuple(shape))
    values = np.asarray(outputs).astype(np.float32)
    if not np.isfinite(values).all():
        raise DMFormerError(
            "The model's outputs are not finite: its weights are broken, or overflow in 16 bits; "
            "train it again at a lower learning rate, or in float32."
        )
    is_softmax = values.min() >= 0 and np.abs(values.sum(axis=-1) - 1).max() < _SUM_TOLERANCE
    for axis in (1, 2):
        values = _resized(values, images.shape[axis], axis)
    if is_softmax:
        return values / values.sum(axis=-1, keepdims=True)
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def _resized(values, length, axis):
    """Returns an array that is brought to a length along one axis by linear interpolation."""
    if values.shape[axis] == length:
        return values
    low, high, fraction = _linear_sources(values.shape[axis], length)
    fraction = fraction.reshape([-1 if other == axis else 1 for other in range(values.ndim)])
    return _between(values.take(low, axis), values.take(high, axis), fraction)


def _linear_sources(old_length, length):
    """Returns which two old samples each new one lies between, and how far from the first.

    The samples are the centers of pixels, as bilinear resizing has them in every backend.
    """
    centers = (np.arange(length) + 0.5) * old_length / length - 0.5
    centers = centers.clip(0, old_length - 1)
    low = np.floor(centers).astype(int)
    return low, np.minimum(low + 1, old_length - 1), (centers - low).astype(np.float32)


def _between(low, high, fraction):
    return low + (high - low) * fraction


def _window_for(size, window):
    """Returns the window, an image of this size being shown whole if none is demanded."""
    if window is not None:
        return window
    if math.prod(size) <= WHOLE_IMAGE_PIXELS:
        return tuple(max(STRIDE, side) for side in size)
    return tuple(min(DEFAULT_WINDOW, math.ceil(side / STRIDE) * STRIDE) for side in size)


def _checked_input_size(model):
    """Returns the (height, width) that a model takes, `None` for any; checks its shapes."""
    if not callable(getattr(model, "predict_on_batch", None)):
        raise DMFormerError(
            f"model must be a Keras model, not a {type(model).__name__}; load it with "
            "dmformer_keras.load."
        )
    output_shape = _shape_of(model, "outputs")
    if output_shape is not None and (len(output_shape) != 4 or output_shape[-1] in (0, 1)):
        raise _no_map(output_shape)
    shape = _shape_of(model, "inputs")
    if shape is None:
        return None, None
    if len(shape) != 4 or shape[-1] is None:
        raise DMFormerError(
            f"The model takes inputs of shape {shape}, where images (batch, height, width, "
            "channels) were expected; give a segmentation model that is channels_last."
        )
    return shape[1:3]


def _shape_of(model, name):
    """Returns the shape of a model's one input or output, `None` if it is not known."""
    tensors = getattr(model, name, None)
    if not tensors:
        return None  # a subclass of keras.Model knows its shapes only after a call
    if len(tensors) != 1:
        raise DMFormerError(
            f"The model has {len(tensors)} {name}, where one was expected; give a model from "
            "images to one map of classes."
        )
    return tuple(tensors[0].shape)


def _no_map(shape):
    return DMFormerError(
        f"The model's output has shape {shape}, where a map (batch, height, width, classes) of "
        "at least 2 classes was expected; give a segmentation model."
    )


def _check_image(image, model):
    if (
        not isinstance(image, np.ndarray)
        or image.ndim != 3
        or image.dtype != np.uint8
        or not image.size
    ):
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else repr(image)
        raise DMFormerError(
            "image must be a uint8 array (height, width, channels), as "
            f"dmformer_keras.data.load_image reads it, not {got[:100]}."
        )
    shape = _shape_of(model, "inputs")
    if shape is not None and shape[-1] != image.shape[-1]:
        raise DMFormerError(
            f"The image has {image.shape[-1]} channels and the model takes {shape[-1]}; read it "
            f"with load_image(path, channels={shape[-1]})."
        )


def _checked_window(window, input_size):
    """Returns the window as (height, width), `None` where the image's size decides."""
    if window is None:
        if input_size == (None, None):
            return None
        window = tuple(DEFAULT_WINDOW if side is None else side for side in input_size)
    sides = tuple(window) if isinstance(window, (tuple, list)) else (window, window)
    if len(sides) != 2 or not all(is_positive_int(side) and side >= STRIDE for side in sides):
        raise DMFormerError(
            f"window must be a number of pixels, at least {STRIDE}, or (height, width) of such, "
            f"not {window!r}."
        )
    if math.prod(sides) > PIXEL_LIMIT:
        raise DMFormerError(
            f"window must be of at most {PIXEL_LIMIT:,} pixels, not {shown(window)}."
        )
    if any(fixed not in (None, side) for fixed, side in zip(input_size, sides, strict=True)):
        raise DMFormerError(
            f"The model takes images of {input_size} pixels (height, width) only, so that "
            f"window={window!r} is not possible; leave window out."
        )
    return tuple(int(side) for side in sides)


def _checked_scales(scales):
    valid = isinstance(scales, (tuple, list)) and len(scales) > 0
    if not valid or not all(is_finite_number(scale) and scale > 0 for scale in scales):
        raise DMFormerError(
            f"scales must be one or more positive numbers, such as (0.75, 1.0, 1.25), not "
            f"{scales!r}."
        )
    return scales
