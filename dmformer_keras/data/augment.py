"""Random changes to training images, driven by one random generator an image."""

import dataclasses
import io
import math
import operator
from typing import Self

import numpy as np

from dmformer_keras.data.images import (
    LUMINANCE,
    checked_size,
    resize_box,
    resize_image,
    through_pillow,
)
from dmformer_keras.data.rand_augment import (
    STRONGEST,
    draw_noise,
    draw_operations,
    operated,
    with_noise,
)
from dmformer_keras.errors import DMFormerError
from dmformer_keras.type_names import ImageSize, Pixels

_CROP_ATTEMPTS = 10
# Below this, hardly anything is left of a photograph.
_SMALLEST_SIDE = 8
_JPEG_QUALITIES = (30, 96)  # the second is never drawn


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are changed at random; the defaults change nothing.

    The order is: crop and resize, degradation, turn and shift, flip, colors, RandAugment,
    erasing.
    What turning or shifting uncovers repeats the nearest edge.

    Args:
        crop_scale: (low, high) in (0, 1], the share of the image's area a random crop
            takes, or None for the crop of evaluation.
        crop_ratio: (low, high), positive: width over height of a random crop, relative to
            the target's, drawn evenly in its logarithm.
        horizontal_flip: bool, mirror every other image, on average.
        rotate: float, turn by up to this many degrees either way.
        translate: float in [0, 1), shift by up to this share of the width and height.
        zoom: float in [0, 1), magnify by a factor of up to 1 - zoom or 1 + zoom.
        brightness: float in [0, 1], multiply by a factor in 1 - brightness .. 1 + brightness.
        contrast: float in [0, 1], scale about the image's mean likewise.
        saturation: float in [0, 1], scale about the grey image likewise; RGB only,
            images of other channel counts are left as they are.
        rand_augment: (number of operations, magnitude from 0 to 30), or None: see
            `dmformer_keras.data.rand_augment`.
        erasing: float in [0, 1], the chance that a box becomes noise.
        degradation: (low, high), ints, in pixels, or None: each image is shrunk to a side drawn
            from this range (where it is larger), compressed as JPEG of a quality drawn from 30
            to 95, and enlarged again. Where classes come from sources of different sharpness, a
            model would tell them apart by that; this project's decision.

    Raises:
        DMFormerError: a value is outside its range.

    Example:

    >>> augmentation = Augmentation(horizontal_flip=True, brightness=0.2)
    >>> image = np.full((48, 48, 3), 100, "uint8")
    >>> augmentation.apply(image, 32, np.random.default_rng(0)).shape
    (32, 32, 3)
    """

    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    horizontal_flip: bool = False
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    rand_augment: tuple[int, float] | None = None
    erasing: float = 0.0
    degradation: tuple[int, int] | None = None

    def __post_init__(self):
        if self.rand_augment is not None:
            expected = f"(number of operations, magnitude in 0..{STRONGEST})"
            check_field(self, "rand_augment", expected, _is_rand_augment)
        check_field(self, "erasing", "a number in 0..1", lambda value: 0 <= value <= 1)
        if self.degradation is not None:
            expected = f"(low, high), whole numbers with {_SMALLEST_SIDE} <= low <= high"
            check_field(self, "degradation", expected, _is_range_of_sides)
        if self.crop_scale is not None:
            check_range(self, "crop_scale", 1)
        check_range(self, "crop_ratio")
        check_colors(self)
        for field in ("translate", "zoom"):
            check_field(self, field, "a number from 0 to below 1", lambda value: 0 <= value < 1)
        check_field(self, "rotate", "an angle in 0..180 degrees", lambda value: 0 <= value <= 180)
        check_field(self, "horizontal_flip", "True or False", lambda value: value in (True, False))

    @classmethod
    def named(cls, name: str) -> Self:
        """A setting by its name.

        Args:
            name: "none"; "light", for digits, letters and other images where mirroring or
                cutting changes the meaning: small turns, shifts, zooms and contrasts;
                "standard", for photographs: random resized crops, mirroring and colors;
                "degraded", for photographs from sources of different sharpness: "standard" and
                degradation to 24 to 64 pixels; or
                "imagenet", for long trainings on a million of them: smaller crops, mirroring,
                RandAugment and erasing (Touvron et al. 2021, DeiT).

        Returns:
            Augmentation.

        Raises:
            DMFormerError: there is no such setting.

        Example:

        >>> Augmentation.named("light").horizontal_flip
        False
        """
        return named_setting(_NAMED, name, cls)

    def apply(
        self,
        image: Pixels,
        image_size: ImageSize,
        rng: np.random.Generator,
        *,
        resize: str = "crop",
        crop_fraction: float = 1.0,
    ) -> Pixels:
        """Bring an image to the training size, changed at random.

        Args:
            image: uint8 array (height, width, channels).
            image_size: int, or (height, width), in pixels.
            rng: `numpy.random.Generator`.
            resize: str, geometry where `crop_scale` is None: see `resize_image`.
            crop_fraction: float, likewise.

        Returns:
            uint8 array (*image_size, channels).
        """
        size = checked_size(image_size)
        changes = self.draw(image.shape, size, rng)
        if changes.box is None:
            image = resize_image(image, size, resize, crop_fraction)
        else:
            image = resize_box(image, changes.box, size)
        if changes.degradation is not None:
            image = _degraded(image, *changes.degradation)
        if changes.move is not None:
            image = _moved(image, *changes.move)
        if changes.flip:
            image = np.ascontiguousarray(image[:, ::-1])
        image = recolored(image, changes.colors)
        if changes.operations and self.rand_augment:
            image = operated(image, changes.operations, self.rand_augment[1])
        return with_noise(image, changes.noise)

    def draw(
        self, shape: tuple[int, int, int], image_size: tuple[int, int], rng: np.random.Generator
    ) -> "Changes":
        """Draws what is done to one image.

        Args:
            shape: (height, width, channels), ints, of the image.
            image_size: (height, width), ints, of the result.
            rng: `numpy.random.Generator`.

        Returns:
            Changes.
        """
        box = move = None
        if self.crop_scale is not None:
            box = self._random_box(shape[:2], image_size[1] / image_size[0], rng)
        if self.rotate or self.translate or self.zoom:
            move = self._random_move(*image_size, rng)
        flip = self.horizontal_flip and rng.random() < 0.5
        colors = draw_colors(rng, self.brightness, self.contrast, self.saturation)
        operations, noise = (), None
        if self.rand_augment is not None:
            operations = draw_operations(rng, self.rand_augment[0])
        if self.erasing and rng.random() < self.erasing:
            noise = draw_noise((*image_size, shape[2]), rng)
        degradation = None
        if self.degradation is not None:
            low, high = self.degradation
            degradation = int(rng.integers(low, high + 1)), int(rng.integers(*_JPEG_QUALITIES))
        return Changes(box, move, flip, colors, operations, noise, degradation)

    def _random_box(self, shape, target_ratio, rng):
        """(left, top, right, bottom) of a random crop, or None where none fitted."""
        height, width = shape
        low, high = (math.log(ratio) for ratio in self.crop_ratio)
        for _ in range(_CROP_ATTEMPTS):
            area = height * width * rng.uniform(*self.crop_scale)
            ratio = target_ratio * math.exp(rng.uniform(low, high))
            box_width, box_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if box_width <= width and box_height <= height:
                left, top = rng.random() * (width - box_width), rng.random() * (height - box_height)
                return left, top, min(left + box_width, width), min(top + box_height, height)
        return None

    def _random_move(self, height, width, rng):
        """The way back, from a point of the result to its origin: (matrix, offset)."""
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        scale = 1 / rng.uniform(1 - self.zoom, 1 + self.zoom)
        shift = np.array([width, height]) * rng.uniform(-self.translate, self.translate, 2)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        matrix = np.array([[cos, sin], [-sin, cos]])
        center = np.array([width / 2, height / 2])
        return matrix, center - matrix @ (center + shift)


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is done to one image, drawn before it is done, wherever that is.

    Args:
        box: (left, top, right, bottom), floats, in pixels of the image, what becomes the
            result; None for the crop of evaluation.
        move: (matrix (2, 2), offset (2,)), float arrays: `matrix @ (x, y) + offset` is where
            the point (x, y) of the result comes from; None for no move.
        flip: bool, whether the result is mirrored.
        colors: (brightness, contrast, saturation), factors, or None for 1.
        operations: tuple of (name, sign), RandAugment's.
        noise: (top, left, uint8 array (height, width, channels)), what is erased, or None.
        degradation: (side, quality), ints, of the small JPEG in between, or None.
    """

    box: tuple | None
    move: tuple | None
    flip: bool
    colors: tuple | None
    operations: tuple = ()
    noise: tuple | None = None
    degradation: tuple[int, int] | None = None


def _degraded(image, side, quality):
    """The image after it was a JPEG whose shorter side has at most `side` pixels."""
    from PIL import Image

    height, width = image.shape[:2]
    share = min(1, side / min(height, width))
    small = max(1, round(width * share)), max(1, round(height * share))

    def degrade(picture):
        buffer = io.BytesIO()
        picture.resize(small, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).resize((width, height), Image.Resampling.BILINEAR)

    return through_pillow(image, degrade)


def _moved(image, matrix, offset):
    from PIL import Image

    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ matrix.T + offset
    overshoot = max(0, -corners.min(), *(corners - (width, height)).max(axis=0))
    margin = math.ceil(overshoot) + 1
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    offset = offset + margin
    data = (*matrix[0], offset[0], *matrix[1], offset[1])
    return through_pillow(
        padded,
        lambda band: band.transform(
            (width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR
        ),
    )


def draw_colors(rng, brightness, contrast, saturation):
    """Draws how the colors of an image are changed; returns (brightness, contrast, saturation),
    factors, or None where all three are 0.
    """
    if not (brightness or contrast or saturation):
        return None
    return tuple(
        rng.uniform(1 - strength, 1 + strength) for strength in (brightness, contrast, saturation)
    )


def color_matrix(colors, channels):
    """What factors of brightness, contrast and saturation come to: float array (channels,
    channels), and the share of the image's mean, float, that is added to its product with each
    pixel.
    """
    brightness, contrast, saturation = colors
    matrix = np.eye(channels)
    if channels == 3:
        matrix = saturation * matrix + (1 - saturation) * LUMINANCE
    return brightness * contrast * matrix, brightness * (1 - contrast)


def recolored(image, colors):
    """Changes an image's colors; returns a uint8 array, as `image`."""
    if colors is None:
        return image
    matrix, share = color_matrix(colors, image.shape[-1])
    offset = share * float(image.mean())
    if image.shape[-1] != 3:
        table = np.rint(matrix[0, 0] * np.arange(256) + offset).clip(0, 255).astype(np.uint8)
        return table[image]
    rows = np.column_stack([matrix, [offset] * 3])
    return through_pillow(image, lambda rgb: rgb.convert("RGB", tuple(rows.flat)))


def check_field(setting, field, expected, is_right):
    """Check one field of a setting of augmentation."""
    value = getattr(setting, field)
    try:
        right = is_right(value)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise DMFormerError(f"{type(setting).__name__}: {field} must be {expected}, not {value!r}.")


def check_colors(setting):
    """Check brightness, contrast and saturation of a setting of augmentation."""
    for field in ("brightness", "contrast", "saturation"):
        check_field(setting, field, "a number in 0..1", lambda value: 0 <= value <= 1)


def _is_range_of_sides(value):
    low, high = map(operator.index, value)
    return _SMALLEST_SIDE <= low <= high


def _is_rand_augment(value):
    operations, magnitude = value
    return operator.index(operations) >= 1 and 0 <= magnitude <= STRONGEST


def check_range(setting, field, most=math.inf):
    """Check that a field of a setting of augmentation is a range of positive numbers."""

    def is_range(value):
        low, high = value
        return 0 < low <= high <= most and math.isfinite(high)

    limit = "in (0, 1]" if most == 1 else "over 0"
    check_field(setting, field, f"(low, high) with both {limit} and low <= high", is_range)


def named_setting(settings, name, kind):
    """A setting of augmentation by its name: one of `settings`."""
    if name not in settings:
        raise DMFormerError(
            f"There is no augmentation {name!r}; choose one of {', '.join(settings)}, "
            f"or build a setting with {kind.__name__}(...)."
        )
    return settings[name]


_STANDARD = Augmentation(
    crop_scale=(0.35, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    horizontal_flip=True,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)
_NAMED = {
    "none": Augmentation(),
    "light": Augmentation(rotate=10, translate=0.08, zoom=0.1, brightness=0.1, contrast=0.2),
    "standard": _STANDARD,
    "degraded": dataclasses.replace(_STANDARD, degradation=(24, 64)),
    "imagenet": Augmentation(
        crop_scale=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        horizontal_flip=True,
        rand_augment=(2, 9),
        erasing=0.25,
    ),
}
