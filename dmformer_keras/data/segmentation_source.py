"""Images with a mask each: in folders or a zip of them, in memory, or as encoded bytes."""

import copy
import json
import threading
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dmformer_keras.data.arrays import open_arrays
from dmformer_keras.data.image_source import (
    ImageSource,
    UnusableImagesError,
    find_problems,
    first_reasons,
    leaves_out,
)
from dmformer_keras.data.images import check_image_header, decode_turned, turn_upright
from dmformer_keras.data.masks import (
    IGNORED_LABEL,
    MaskClasses,
    check_mask_header,
    decode_mask,
    read_mask,
)
from dmformer_keras.data.splits import carve
from dmformer_keras.data.trees import CLASSES_FILE, quoted
from dmformer_keras.errors import DMFormerError
from dmformer_keras.type_names import Pixels


class Pair(typing.NamedTuple):
    """An image file and its mask file: what to fetch them by, and what to call them."""

    image: typing.Any
    mask: typing.Any
    image_name: str
    mask_name: str


class SegmentationSource(ImageSource):
    """Images with masks by number, as `open_source` with task="segment" returns them.

    `len(source)` is the number of images.

    Attributes:
        title, split, class_names, channels, skipped: see `ImageSource`.
        class_colors: list of (r, g, b), ints in 0..255, by class index.
        labels: None; what an image shows is its mask.
        pixel_counts: int64 array (classes,), the pixels of every class, or None where
            they were not counted: see `count_pixels`.
        ignored_pixels: int, the pixels of no class, or None.

    Example:

    >>> from dmformer_keras.data import open_source
    >>> images, masks = np.zeros((2, 4, 4, 3), "uint8"), np.array([np.eye(4, dtype=int)] * 2)
    >>> source = open_source((images, masks, ["floor", "cat"]), "all", task="segment")
    >>> image, mask = source.read(1)
    >>> image.shape, mask.shape, source.pixel_counts.tolist()
    ((4, 4, 3), (4, 4), [24, 8])
    """

    def __init__(
        self,
        title: str,
        split: str,
        classes: MaskClasses,
        channels: int,
        skipped: Iterable[tuple[str, str]] = (),
        *,
        pairs: Sequence[Any],
    ) -> None:
        super().__init__(title, split, classes.names, None, channels, skipped)
        self.class_colors = list(classes.colors)
        self.pixel_counts: Any = None
        self.ignored_pixels: int | None = None
        self._classes = classes
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def meanings(self) -> str:
        """What the labels and the colors in the masks' files mean, as JSON.

        Returns:
            str, the same for tables that give the same class indexes.
        """
        labels, colors = self._classes.by_label.items(), self._classes.by_color.items()
        by_label = sorted((int(label), int(index)) for label, index in labels)
        by_color = sorted((*map(int, color), int(index)) for color, index in colors)
        return json.dumps([by_label, by_color])

    def read(  # type: ignore[override]  # its mask is what an image is labeled with
        self, index: int
    ) -> tuple[Pixels, Pixels]:
        """One image and its mask.

        Args:
            index: int, 0 to `len(source) - 1`.

        Returns:
            uint8 array (height, width, channels), and uint8 array (height, width) of class
            indexes, `IGNORED_LABEL` (255) where a pixel counts for nothing.

        Raises:
            DMFormerError: one cannot be read or decoded, their sizes differ, or the mask holds
                what belongs to no class.
        """
        return self._read(self._pairs[self._checked(index)])

    def verified(
        self, on_corrupt: str, fully: bool, problems: Sequence[tuple[str, str]] = ()
    ) -> Self:
        """Look at every pair once, and count the pixels of every class on the way.

        Args:
            on_corrupt: "error" or "skip".
            fully: bool, decode the pixels; otherwise only read the headers, and count nothing.
            problems: list of (name, reason), files that are known to be unusable.

        Returns:
            This source, or one without the pairs that cannot be used.

        Raises:
            DMFormerError: pairs cannot be used and are not to be skipped, or none is left.
        """
        if not fully:
            found = find_problems(len(self), lambda index: self._check(self._pairs[index]))
            return self._left(found, on_corrupt, problems)
        found, counts = _look_and_count(self)
        source = self._left(found, on_corrupt, problems)
        source.pixel_counts = counts[: len(self.class_names)]
        source.ignored_pixels = int(counts[IGNORED_LABEL])
        _check_more_than_one_class(source)
        return source

    def _read(self, pair: Any) -> tuple[Pixels, Pixels]:
        raise NotImplementedError

    def _check(self, pair: Any) -> None:
        raise NotImplementedError

    def describe(self) -> str:
        """The source in a few lines for people: images, and every class's share of the pixels.

        Returns:
            str.
        """
        lines = super().describe().splitlines()
        if self.pixel_counts is not None:
            total = max(1, self.pixel_counts.sum() + self.ignored_pixels)
            shares = [
                (str(number), name, count)
                for number, (name, count) in enumerate(
                    zip(self.class_names, self.pixel_counts, strict=True)
                )
            ]
            shares.append(("", "ignored", self.ignored_pixels))
            lines[1:1] = [
                f"  {number:>4} {name}: {100 * count / total:.2f} % of pixels"
                for number, name, count in shares
            ]
        return "\n".join(lines)

    def _left(self, found, on_corrupt, others):
        if not leaves_out(self, found, on_corrupt, others):
            return self
        if len(found) == len(self):
            raise DMFormerError(
                f"{self.title[-80:]} has no pair of image and mask left after skipping the "
                f"{len(found)} that cannot be used; repair these files: "
                f"{first_reasons(list(found.values()))}"
            )
        rest = copy.copy(self)
        rest.skipped = [
            *self.skipped, *others, *((self.name(index), text) for index, text in found.items())
        ]  # fmt: skip
        rest._pairs = [pair for index, pair in enumerate(self._pairs) if index not in found]
        return rest


class EncodedSegmentationSource(SegmentationSource):
    """Images and masks kept as the bytes of image files, by `pairs` (list of `Pair`).

    `fetch` and `stamp` are as of `EncodedSource`, of `Pair.image` or `Pair.mask`.
    """

    def __init__(self, title, split, classes, channels, skipped=(), *, pairs, fetch, stamp=None):
        super().__init__(title, split, classes, channels, skipped, pairs=pairs)
        self._fetch = fetch
        self._stamp = stamp

    def contents(self, index):
        pair = self._pairs[self._checked(index)]
        return self._fetch(pair.image) + self._fetch(pair.mask)

    def stamp(self, index):
        if self._stamp is None:
            return super().stamp(index)
        pair = self._pairs[self._checked(index)]
        return self._stamp(pair.image), self._stamp(pair.mask)

    def _read(self, pair):
        return decode_pair(
            self._fetch(pair.image), self._fetch(pair.mask), self.channels, self._classes, pair
        )

    def _check(self, pair):
        check_image_header(self._fetch(pair.image), quoted(pair.image_name))
        check_mask_header(self._fetch(pair.mask), quoted(pair.mask_name))

    def _name(self, index):
        return self._pairs[index].image_name


class ArraySegmentationSource(SegmentationSource):
    """Images and masks in memory: `masks[i]` is of image `i` of `images`, an ArraySource."""

    def __init__(self, images, masks, classes):
        numbers = list(range(len(images)))
        super().__init__(images.title, images.split, classes, images.channels, pairs=numbers)
        self._images = images
        self._masks = masks

    def _read(self, number):
        image, _ = self._images.read(number)
        name = f"of {self._images.name(number)}"
        mask = self._classes.indexes(np.asarray(self._masks[number]), name)
        _check_same_size(image, mask, self._images.name(number), name)
        return image, mask

    def _name(self, index):
        return self._images.name(self._pairs[index])


def decode_pair(encoded_image, encoded_mask, channels, classes, pair):
    """Decode an image and its mask; returns a uint8 array (height, width, channels), uint8 array
    (height, width).

    A photo is turned upright by its EXIF orientation. A mask of the size that the photo has in its
    file was drawn on the photo as it lies there, and is turned alike.
    """
    name = quoted(pair.mask_name)
    image, orientation = decode_turned(encoded_image, channels, quoted(pair.image_name))
    mask = classes.indexes(read_mask(encoded_mask, name), name)
    size = image.shape[:2]
    if orientation != 1 and mask.shape == (size[::-1] if orientation >= 5 else size):
        mask = turn_upright(mask, orientation)
    _check_same_size(image, mask, quoted(pair.image_name), name)
    return image, mask


def count_pixels(source: SegmentationSource) -> NDArray[np.int64]:
    """Count the pixels of every class, for example to weight classes by.

    Args:
        source: SegmentationSource.

    Returns:
        int64 array (classes,); what `verify=True` has counted is not counted again.

    Raises:
        DMFormerError: a pair cannot be used, or the source is streamed.
    """
    if not isinstance(source, SegmentationSource):
        raise DMFormerError(
            f"count_pixels takes what open_source(..., task='segment') returns, not {source!r}."
        )
    if source.pixel_counts is not None:
        return source.pixel_counts
    return source.verified("error", fully=True).pixel_counts


def open_segmentation_arrays(arrays, split, *, channels, validation_fraction, seed, ignored_labels):
    """Open images and masks in memory."""
    if len(arrays) not in (2, 3):
        raise DMFormerError(
            f"Arrays are given as (images, masks) or (images, masks, class_names), "
            f"not as {len(arrays)} parts; give these."
        )
    masks = arrays[1]
    _check_masks(arrays[0], masks)
    if len(arrays) == 3:
        rows = [(label, str(name), None) for label, name in enumerate(arrays[2])]
        classes = MaskClasses.of_table(rows, ignored_labels, "The list of class names")
    else:
        labels = set().union(*(np.unique(mask).tolist() for mask in masks))
        classes = MaskClasses.of_labels(labels, ignored_labels, "arrays")
    images = open_arrays(
        (arrays[0], np.zeros(len(masks), int)),
        split,
        channels=channels,
        validation_fraction=validation_fraction,
        seed=seed,
    )
    chosen = [masks[index] for index in images.indexes]
    return ArraySegmentationSource(images, chosen, classes).verified("error", fully=True)


def carved_pairs(title, split, pairs, validation_fraction, seed, names=None):
    """The pairs of "train" or "val" where both lie together: a fixed share of them."""
    of_one_class = np.zeros(len(pairs), int)
    chosen = carve(title, split, of_one_class, validation_fraction, seed, names)
    return [pairs[index] for index in chosen]


def find_labels(pairs, fetch, on_corrupt):
    """The labels that masks hold, where nothing names the classes: set of ints."""
    labels, colored = set(), []

    def look(index):
        pair = pairs[index]
        mask = decode_mask(fetch(pair.mask), quoted(pair.mask_name))
        if mask.ndim == 3:
            colored.append(pair.mask_name)
        else:
            labels.update(np.unique(mask).tolist())

    problems = find_problems(len(pairs), look)
    if problems and on_corrupt == "error":
        raise UnusableImagesError("The data", list(problems.values()), len(pairs))
    if colored:
        raise DMFormerError(
            f"{len(colored)} mask(s) of {len(pairs)} are RGB images, the first {min(colored)!r}; "
            f"beside images/ and masks/ write a {CLASSES_FILE} with a line for every class: "
            "index, name, red, green, blue, with tabs between."
        )
    return labels


def _look_and_count(source):
    """{index: what is wrong}, and int64 array (256,) of the pixels of every mask value."""
    counts, lock = np.zeros(256, np.int64), threading.Lock()

    def look(index):
        _, mask = source.read(index)
        found = np.bincount(mask.ravel(), minlength=256)
        with lock:
            np.add(counts, found, out=counts)

    return find_problems(len(source), look), counts


def _check_more_than_one_class(source):
    present = np.flatnonzero(source.pixel_counts)
    # Black-and-white masks look like this: their white is 255.
    if source.split in ("train", "all") and present.size == 1 and source.ignored_pixels:
        raise DMFormerError(
            f"All pixels of the masks of {source.title} are "
            f"{source.class_names[present[0]]!r} or ignored, as 255 always is; in black-and-white "
            "masks write 1 for white, or save them as RGB and give classes.tsv the two colors."
        )


def _check_same_size(image, mask, image_name, mask_name):
    if image.shape[:2] != mask.shape:
        raise DMFormerError(
            f"The mask {mask_name} is {mask.shape[1]} wide and {mask.shape[0]} high, but its image "
            f"{image_name} is {image.shape[1]} x {image.shape[0]}; make them the same size."
        )


def _check_masks(images, masks):
    if len(masks) != len(images):
        raise DMFormerError(
            f"There must be one mask per image, not {len(masks)} masks for {len(images)} images."
        )
    for number, mask in enumerate(masks):
        mask = np.asarray(mask)
        if mask.ndim != 2 or not mask.size or not np.issubdtype(mask.dtype, np.integer):
            raise DMFormerError(
                f"Mask {number} must hold a whole number for every pixel, (height, width), not an "
                f"array of shape {mask.shape} and type {mask.dtype}; images with one class number "
                "each are for task='classify'."
            )
