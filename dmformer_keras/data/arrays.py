"""Images in memory: the caller's arrays, and the digits that come with scikit-learn."""

import numpy as np

from dmformer_keras.data.image_source import ImageSource
from dmformer_keras.data.images import LUMINANCE, resize_image
from dmformer_keras.data.splits import carve, stored_split
from dmformer_keras.errors import DMFormerError

DIGITS_SIZE = 32


class ArraySource(ImageSource):
    """Images in memory: those of `images` (uint8, or float in 0..255) that `indexes` lists.

    `images` are not copied; the other arguments are those of `ImageSource`.
    """

    def __init__(self, title, split, class_names, labels, channels, *, images, indexes):
        super().__init__(title, split, class_names, labels, channels)
        self._images = images
        self.indexes = indexes

    def _image(self, index):
        image = np.asarray(self._images[self.indexes[index]])
        image = (image if image.dtype == np.uint8 else np.rint(image)).astype(np.uint8)
        return _with_channels(image if image.ndim == 3 else image[..., None], self.channels)

    def _name(self, index):
        return f"{self.title}[{self.indexes[index]}]"


def open_arrays(arrays, split, *, channels, validation_fraction, seed):
    """Open images and labels in memory."""
    title = "arrays"
    if len(arrays) not in (2, 3):
        raise DMFormerError(
            f"Arrays are given as (images, labels) or (images, labels, class_names), "
            f"not as {len(arrays)} parts; give these."
        )
    images = arrays[0] if isinstance(arrays[0], (list, tuple)) else np.asarray(arrays[0])
    labels = _checked_labels(arrays[1], len(images))
    class_names = _checked_class_names(labels, arrays[2] if len(arrays) == 3 else None)
    own_channels = _checked_images(images)
    _, carved = stored_split(title, split, ["all"])
    indexes = np.arange(len(labels))
    if carved:
        indexes = carve(title, split, labels, validation_fraction, seed)
    return ArraySource(
        title,
        split,
        class_names,
        labels[indexes],
        _checked_channels(channels, own_channels),
        images=images,
        indexes=indexes,
    )


def open_digits(split, *, channels):
    """Open scikit-learn's 1,797 handwritten digits, enlarged smoothly from 8x8 to 32x32.

    The splits are fixed: about 70 % train, 10 % val and 20 % test, of every digit.
    """
    stored_split("digits", split, ["train", "val", "test"])
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DMFormerError(
            "The source 'digits' comes with scikit-learn, which is not installed; "
            "run `pip install scikit-learn`."
        ) from error
    digits = load_digits()
    indexes = _digits_split(digits.target)[split]
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return ArraySource(
        "digits",
        split,
        [str(digit) for digit in range(10)],
        digits.target[indexes],
        _checked_channels(channels, 1),
        images=[resize_image(image[..., None], DIGITS_SIZE) for image in small],
        indexes=indexes,
    )


def _digits_split(labels):
    """{split: indexes}: every class cut alike, 20 % to test and 1/8 of the rest to val."""
    test = carve("digits", "val", labels, 0.2, seed=0)
    rest = carve("digits", "train", labels, 0.2, seed=0)
    val = rest[carve("digits", "val", labels[rest], 1 / 8, seed=1)]
    train = rest[carve("digits", "train", labels[rest], 1 / 8, seed=1)]
    return {"train": train, "val": val, "test": test}


def _checked_labels(labels, image_count):
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:  # as keras.datasets gives them
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DMFormerError(
            "Labels must be a list of whole class numbers, one per image, not an array of shape "
            f"{labels.shape} and type {labels.dtype}; take np.argmax(labels, -1) of one-hot "
            "labels and .astype('int32') of others, and open masks with task='segment'."
        )
    if len(labels) != image_count or not image_count:
        raise DMFormerError(
            f"There must be one label per image and at least one image, not {image_count} images "
            f"and {len(labels)} labels."
        )
    if labels.min() < 0:
        raise DMFormerError(f"Labels must be 0 or more, not {labels.min()}.")
    return labels.astype(np.int32)


def _checked_class_names(labels, class_names):
    """The class names given, which may name classes without images, or the class numbers."""
    if class_names is not None:
        class_names = [str(name) for name in class_names]
        if labels.max() >= len(class_names):
            raise DMFormerError(
                f"Label {labels.max()} has no name among the {len(class_names)} class names; "
                "give a name for every class, in the order of their numbers."
            )
        return class_names
    missing = np.flatnonzero(np.bincount(labels) == 0)
    if missing.size:
        raise DMFormerError(
            f"No image has label {missing[0]} of 0..{labels.max()}; number the classes without "
            "gaps, or give (images, labels, class_names)."
        )
    return [str(number) for number in range(labels.max() + 1)]


def _checked_images(images):
    """The number of channels, after a look at every image."""
    if isinstance(images, np.ndarray) and images.ndim not in (3, 4):
        raise DMFormerError(
            "Images must be (number, height, width) or (number, height, width, channels), "
            f"not an array of shape {images.shape}; reshape it."
        )
    counts, highest, any_float = set(), 0, False
    for number, image in enumerate(images):
        image = np.asarray(image)
        if image.ndim not in (2, 3) or not image.size:
            raise DMFormerError(
                f"Image {number} must be (height, width) or (height, width, channels), "
                f"not of shape {image.shape}; reshape it."
            )
        is_float = np.issubdtype(image.dtype, np.floating)
        low, high = (image.min(), image.max()) if is_float else (0, 255)
        if not (is_float or image.dtype == np.uint8) or not (low >= 0 and high <= 255):
            raise DMFormerError(
                f"Images must be uint8, or float in 0..255, but image {number} is {image.dtype} "
                f"in {image.min()}..{image.max()}; scale it and use .astype('uint8')."
            )
        counts.add(image.shape[2] if image.ndim == 3 else 1)
        highest, any_float = max(highest, high), any_float or is_float
    if len(counts) > 1:
        raise DMFormerError(
            f"Images must all have the same number of channels, not {sorted(counts)}; convert them."
        )
    if any_float and highest <= 1:
        raise DMFormerError(
            f"Float images must be in 0..255, but no value here is over {highest}, "
            "as if they were in 0..1; multiply them by 255."
        )
    return counts.pop()


def _checked_channels(channels, own_channels):
    if channels in (None, own_channels) or {channels, own_channels} == {1, 3}:
        return channels or own_channels
    raise DMFormerError(
        f"The images have {own_channels} channel(s), which cannot be made {channels}; "
        f"pass channels={own_channels}, or None."
    )


def _with_channels(image, channels):
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return np.rint(image @ LUMINANCE).astype(np.uint8)[..., None]
