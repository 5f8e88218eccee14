"""Random changes to a training image together with its mask."""

import dataclasses
from typing import Self

import numpy as np

from dmformer_keras.data.augment import (
    check_colors,
    check_field,
    check_range,
    draw_colors,
    named_setting,
    recolored,
)
from dmformer_keras.data.images import resize_box, resize_image, resize_mask
from dmformer_keras.data.masks import IGNORED_LABEL
from dmformer_keras.type_names import Pixels

_CROP_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class JointAugmentation:
    """How training images and their masks are changed at random; the defaults change nothing.

    The order is: enlarge or shrink, cut out a part, colors, pad, flip. Where the image is
    smaller than the part, the rest is 0 in the image and ignored in the mask.

    Args:
        scale: (low, high), positive: the factor on the image's height and width, drawn
            evenly; a part of the target's size is cut out afterwards. None for the
            geometry of evaluation.
        shorter_side: int, the pixels that the image's shorter side is brought to before
            `scale` counts, for images of very different sizes; None leaves them as they are.
        largest_share: float in (0, 1], draw the part anew, up to ten times, while one class
            has more than this share of its pixels; 1 takes the first.
        horizontal_flip: bool, mirror every other image, on average.
        brightness, contrast, saturation: floats in [0, 1], see `Augmentation`.

    Raises:
        DMFormerError: a value is outside its range.

    Example:

    >>> augmentation = JointAugmentation(scale=(0.5, 2), horizontal_flip=True)
    >>> image, mask = np.full((48, 64, 3), 100, "uint8"), np.ones((48, 64), "uint8")
    >>> image, mask = augmentation.apply(image, mask, (32, 32), np.random.default_rng(0))
    >>> image.shape, mask.shape
    ((32, 32, 3), (32, 32))
    """

    scale: tuple[float, float] | None = None
    shorter_side: int | None = None
    largest_share: float = 1.0
    horizontal_flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        if self.scale is not None:
            check_range(self, "scale")
        if self.shorter_side is not None:
            check_field(
                self,
                "shorter_side",
                "a whole number of pixels, and scale given",
                lambda value: isinstance(value, int) and value > 0 and self.scale is not None,
            )
        check_field(self, "largest_share", "a number in (0, 1]", lambda value: 0 < value <= 1)
        check_field(self, "horizontal_flip", "True or False", lambda value: value in (True, False))
        check_colors(self)

    @classmethod
    def named(cls, name: str) -> Self:
        """A setting by its name.

        Args:
            name: "none"; "light", where mirroring changes the meaning: a factor of 0.75 to
                1.33 and faint colors; "standard", for photographs: a factor of 0.5 to 2,
                mirroring and colors; or "ade20k", mmsegmentation's for photographs of
                very different sizes: the same on a shorter side of 512 pixels, parts of
                which no class has more than three quarters, stronger colors.

        Returns:
            JointAugmentation.

        Raises:
            DMFormerError: there is no such setting.

        Example:

        >>> JointAugmentation.named("standard").scale
        (0.5, 2.0)
        """
        return named_setting(_NAMED, name, cls)

    def apply(
        self,
        image: Pixels,
        mask: Pixels,
        image_size: tuple[int, int],
        rng: np.random.Generator,
        *,
        resize: str = "crop",
        crop_fraction: float = 1.0,
    ) -> tuple[Pixels, Pixels]:
        """Bring an image and its mask to the training size, changed at random.

        Args:
            image: uint8 array (height, width, channels).
            mask: uint8 array (height, width).
            image_size: (height, width), ints, in pixels.
            rng: `numpy.random.Generator`.
            resize: str, geometry where `scale` is None: see `resize_image`.
            crop_fraction: float, likewise.

        Returns:
            uint8 array (*image_size, channels), uint8 array (*image_size).
        """
        if self.scale is None:
            image = self._recolored(resize_image(image, image_size, resize, crop_fraction), rng)
            mask = resize_mask(mask, image_size, resize, crop_fraction, padding=IGNORED_LABEL)
        else:
            part, mask = self._drawn_part(mask, image_size, rng)
            image = _padded(self._recolored(part.of(image), rng), part, image_size, 0)
        if self.horizontal_flip and rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(mask)

    def _recolored(self, image, rng):
        colors = draw_colors(rng, self.brightness, self.contrast, self.saturation)
        return recolored(image, colors)

    def _drawn_part(self, mask, image_size, rng):
        """The part of the image that training sees, and the mask of it."""
        height, width = mask.shape
        factor = rng.uniform(*self.scale)
        if self.shorter_side is not None:
            factor *= self.shorter_side / min(height, width)
        scaled_size = max(1, round(height * factor)), max(1, round(width * factor))
        for _ in range(_CROP_ATTEMPTS):
            part = _Part.drawn(mask.shape, scaled_size, image_size, rng)
            seen = _padded(part.of(mask, nearest=True), part, image_size, IGNORED_LABEL)
            if self.largest_share == 1 or _largest_share(seen) <= self.largest_share:
                break
        return part, seen


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of an image: its `box` (left, top, right, bottom) in pixels of the image, and its
    `place` (top, left) and `size` (height, width) in the result.
    """

    box: tuple
    place: tuple
    size: tuple

    @classmethod
    def drawn(cls, own_size, scaled_size, image_size, rng):
        starts, ends, place, size = [], [], [], []
        for own, scaled, wanted in zip(own_size, scaled_size, image_size, strict=True):
            slack = scaled - wanted
            # Where the result begins in the scaled image; below 0 the result is padded.
            first = int(rng.integers(min(0, slack), max(0, slack) + 1))
            start, end = max(first, 0), min(first + wanted, scaled)
            starts.append(start * own / scaled)
            ends.append(min(end * own / scaled, own))
            place.append(start - first)
            size.append(end - start)
        return cls((starts[1], starts[0], ends[1], ends[0]), tuple(place), tuple(size))

    def of(self, image, nearest=False):
        return resize_box(image, self.box, self.size, nearest=nearest)


def _padded(array, part, image_size, value):
    if array.shape[:2] == tuple(image_size):
        return array
    result = np.full((*image_size, *array.shape[2:]), value, np.uint8)
    (top, left), (height, width) = part.place, part.size
    result[top : top + height, left : left + width] = array
    return result


def _largest_share(mask):
    """The share of the class with the most pixels; 1 where all are ignored."""
    counts = np.bincount(mask.ravel(), minlength=256)[:IGNORED_LABEL]
    return counts.max() / counts.sum() if counts.any() else 1.0


_NAMED = {
    "none": JointAugmentation(),
    "light": JointAugmentation(scale=(0.75, 4 / 3), brightness=0.1, contrast=0.2),
    "standard": JointAugmentation(
        scale=(0.5, 2.0), horizontal_flip=True, brightness=0.3, contrast=0.3, saturation=0.3
    ),
    "ade20k": JointAugmentation(
        scale=(0.5, 2.0),
        shorter_side=512,
        largest_share=0.75,
        horizontal_flip=True,
        brightness=0.125,
        contrast=0.5,
        saturation=0.5,
    ),
}
