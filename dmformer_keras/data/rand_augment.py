"""RandAugment and random erasing on uint8 images, by Pillow."""

import numpy as np

from dmformer_keras.data.images import through_pillow

# Strongest setting: magnitude 30 of 30, as torchvision counts.
STRONGEST = 30
_FILL = 128
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 1 / 0.3)
_ERASING_ATTEMPTS = 10


def rand_augment(image, rng, operations, magnitude):
    """Applies random operations, one after another, all of one magnitude.

    Source: Cubuk et al. 2020, "RandAugment"; the fourteen operations and their ranges are
    torchvision's. What turning, shearing or shifting uncovers is grey. Channels are all
    changed alike, one of transparency, too.

    Args:
        image: uint8 array (height, width, channels).
        rng: `numpy.random.Generator`.
        operations: int, how many.
        magnitude: float in 0..30.

    Returns:
        uint8 array, as `image`.

    Example:

    >>> image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), "uint8")
    >>> rand_augment(image, np.random.default_rng(1), operations=2, magnitude=9).shape
    (32, 32, 3)
    """
    for _ in range(operations):
        operation = _OPERATIONS[rng.integers(len(_OPERATIONS))]
        sign = rng.choice((-1, 1))
        image = operation(image, magnitude / STRONGEST, sign)
    return image


def erased(image, rng):
    """Replaces a random box of an image by noise.

    Source: Zhong et al. 2020, "Random Erasing Data Augmentation".

    Args:
        image: uint8 array (height, width, channels).
        rng: `numpy.random.Generator`.

    Returns:
        uint8 array, as `image`.
    """
    height, width = image.shape[:2]
    for _ in range(_ERASING_ATTEMPTS):
        area = height * width * rng.uniform(*_ERASED_AREA)
        ratio = np.exp(rng.uniform(*np.log(_ERASED_RATIO)))
        box_height, box_width = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < box_height < height and 0 < box_width < width:
            top, left = (
                rng.integers(side - part + 1)
                for side, part in ((height, box_height), (width, box_width))
            )
            image = image.copy()
            shape = (box_height, box_width, image.shape[2])
            noise = rng.integers(0, 256, shape, np.uint8)
            image[top : top + box_height, left : left + box_width] = noise
            return image
    return image


def _enhanced(name):
    def operation(image, strength, sign):
        from PIL import ImageEnhance

        if name == "Color" and image.shape[-1] != 3:
            return image
        enhance = getattr(ImageEnhance, name)
        return through_pillow(image, lambda band: enhance(band).enhance(1 + sign * 0.9 * strength))

    return operation


def _moved(matrix):
    """An affine operation; `matrix(amount, width, height)` leads from a point to its origin."""

    def operation(image, strength, sign):
        from PIL import Image

        height, width = image.shape[:2]
        data = matrix(sign * strength, width, height)
        fill = (_FILL,) * 3 if image.shape[-1] == 3 else _FILL
        return through_pillow(
            image,
            lambda band: band.transform(
                (width, height),
                Image.Transform.AFFINE,
                data,
                Image.Resampling.BILINEAR,
                fillcolor=fill,
            ),
        )

    return operation


def _turned(amount, width, height):
    angle = np.deg2rad(30 * amount)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _by_pillow(operation):
    def apply(image, strength, sign):
        from PIL import ImageOps

        return through_pillow(image, lambda band: operation(ImageOps, band, strength))

    return apply


_OPERATIONS = (
    lambda image, strength, sign: image,
    _by_pillow(lambda ops, band, strength: ops.autocontrast(band)),
    _by_pillow(lambda ops, band, strength: ops.equalize(band)),
    _by_pillow(lambda ops, band, strength: ops.posterize(band, 8 - round(4 * strength))),
    _by_pillow(lambda ops, band, strength: ops.solarize(band, 256 - round(256 * strength))),
    _enhanced("Color"),
    _enhanced("Contrast"),
    _enhanced("Brightness"),
    _enhanced("Sharpness"),
    _moved(_turned),
    _moved(lambda amount, width, height: (1, 0.3 * amount, 0, 0, 1, 0)),
    _moved(lambda amount, width, height: (1, 0, 0, 0.3 * amount, 1, 0)),
    _moved(lambda amount, width, height: (1, 0, 150 / 331 * width * amount, 0, 1, 0)),
    _moved(lambda amount, width, height: (1, 0, 0, 0, 1, 150 / 331 * height * amount)),
)
