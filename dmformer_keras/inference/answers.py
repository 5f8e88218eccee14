"""From image files, PIL images or arrays to what is on them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dmformer_keras.checks import check_positive_int
from dmformer_keras.data.images import decode_image, load_image, resize_image
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.inference.model_outputs import (
    class_names_of,
    image_size_of,
    is_segmenter,
    predicted,
    to_probabilities,
    warn_of_scaled_pixels,
)
from dmformer_keras.inference.windows import segment_image
from dmformer_keras.type_names import Image, Model

_BATCH_SIZE = 32
_ORIENTATION = 0x0112  # a tag of EXIF
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")


@overload
def classify(
    model: Model, images: list[Image] | tuple[Image, ...], top: int = 5
) -> list[list[tuple[str, float]]]: ...


@overload
def classify(model: Model, images: Image, top: int = 5) -> list[tuple[str, float]]: ...


def classify(model, images, top=5):
    """Names the likeliest classes of images.

    Images are turned upright, resized and cropped exactly as `dmformer evaluate` and
    `dmformer_keras.training.evaluate` do it.

    Args:
        model: a classifier: what `dmformer_keras.load` returns, also for an exported file, or
            any `DMFormerClassifier` or `FusedModel` for images in 0..255, channels last.
        images: one image, or a list of images. An image is a path, a `PIL.Image.Image`, or a
            uint8 array (height, width) or (height, width, channels), of any size.
        top: positive int, how many classes; all of them where the model has fewer.

    Returns:
        For one image a list of `(class name, probability)`, the likeliest first; for a list
        of images a list of such lists. Classes without names are named by their numbers.

    Raises:
        DMFormerError: an image cannot be read, `top` is no positive integer, or the model is
            no classifier.

    Example:

    >>> from dmformer_keras import DMFormerN
    >>> model = DMFormerN(input_shape=(64, 64, 3), num_classes=2, class_names=["cat", "dog"])
    >>> image = np.zeros((100, 150, 3), "uint8")
    >>> [name for name, probability in classify(model, image, top=1)] in (["cat"], ["dog"])
    True
    >>> [len(found) for found in classify(model, [image, image])]
    [2, 2]
    """
    several = isinstance(images, (list, tuple))
    names = class_names_of(model)
    found = [
        [(names[index], probability) for index, probability in likeliest]
        for likeliest in likeliest_classes(model, images if several else [images], top)
    ]
    return found if several else found[0]


def likeliest_classes(
    model: Model, images: Sequence[Image], top: int
) -> Iterator[list[tuple[int, float]]]:
    """Yields the likeliest classes of each image by their indexes, as `classify` by name: a list of
    (int class index, float probability), the likeliest first.
    """
    check_positive_int("top", top)
    if is_segmenter(model) or len(model.output.shape) != 2:
        raise DMFormerError(
            f"{model.name!r} gives outputs of shape {model.output.shape}, where a classifier's "
            "(images, classes) were expected; for a segmenter call dmformer_keras.segment."
        )
    size, channels = image_size_of(model), model.input.shape[-1]
    for first in range(0, len(images), _BATCH_SIZE):
        part = images[first : first + _BATCH_SIZE]
        batch = np.stack([resize_image(_opened(image, channels, size), size) for image in part])
        warn_of_scaled_pixels(batch)
        outputs = np.asarray(predicted(model, batch.astype("float32")))
        for probabilities in to_probabilities(outputs, model.activation):
            ranked = np.argsort(-probabilities, kind="stable")[:top]
            yield [(int(index), float(probabilities[index])) for index in ranked]


def segment(model: Model, image: Image, **options: Any) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Names the class of each pixel of an image, whatever its size.

    Args:
        model: a segmenter: what `dmformer_keras.load` returns, also for an exported file, or
            any `SemanticFPN`, `UPerNet` or `FusedModel` for images in 0..255, channels last.
        image: a path, a `PIL.Image.Image`, or a uint8 array (height, width) or (height,
            width, channels).
        **options: `window`, `overlap`, `flip`, `scales`, `batch_size` of
            `dmformer_keras.inference.segment_image`.

    Returns:
        uint8 array (height, width) of class indexes, at the size of the image turned upright;
        uint16 for a model of more than 255 classes.

    Raises:
        DMFormerError: the image cannot be read, an option is wrong, or the model is no
            segmenter.

    Example:

    >>> from dmformer_keras import SemanticFPN
    >>> model = SemanticFPN.from_preset("dmformer_n", num_classes=4, head_channels=8)
    >>> segment(model, np.zeros((50, 70, 3), "uint8")).shape
    (50, 70)
    """
    if not is_segmenter(model):
        raise DMFormerError(
            f"{model.name!r} gives outputs of shape {model.output.shape}, where a segmenter's "
            "(images, height, width, classes) were expected; for a classifier call "
            "dmformer_keras.classify."
        )
    pixels = _opened(image, model.input.shape[-1])
    warn_of_scaled_pixels(pixels)
    return segment_image(model, pixels, **options)


def _opened(image, channels, size=None):
    """Returns an image as a uint8 array (height, width, channels), turned upright.

    With a size, a very large one is made smaller while it is decoded, as a source does it.
    """
    if isinstance(image, (str, os.PathLike)):
        return load_image(image, size, channels=channels)
    if isinstance(image, np.ndarray):
        return _of_channels(image, channels)
    if hasattr(image, "getexif"):
        reduce = size is not None
        return decode_image(_encoded(image), channels, "the PIL image", reduce=reduce)
    raise DMFormerError(
        "An image must be a path, a PIL.Image.Image or a uint8 array (height, width, channels), "
        f"not a {type(image).__name__}."
    )


def _encoded(image):
    """Returns a PIL image as a file, for one decoder turns, converts and flattens images."""
    from PIL import Image

    encoded, exif = io.BytesIO(), Image.Exif()
    with contextlib.suppress(Exception):  # broken EXIF leaves the pixels as good
        exif[_ORIENTATION] = image.getexif()[_ORIENTATION]
    try:
        image.save(encoded, "PNG" if image.mode in _PNG_MODES else "TIFF", exif=exif)
    except (OSError, ValueError, SyntaxError) as error:
        raise DMFormerError(
            f"The PIL image of mode {image.mode!r} cannot be read ({shortened(error, 150)}); "
            'convert it to mode "RGB".'
        ) from error
    return encoded.getvalue()


def _of_channels(image, channels):
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise DMFormerError(
            "An array that is an image must be uint8 of shape (height, width) or (height, width, "
            f"channels), not {image.dtype} of shape {image.shape}; scale it to 0..255, and give "
            "several images as a list."
        )
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[-1] == channels:
        return image
    if image.shape[-1] == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    raise DMFormerError(
        f"The image has {image.shape[-1]} channels and the model takes {channels}; convert the "
        "image."
    )
