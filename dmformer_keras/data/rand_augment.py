"""RandAugment and random erasing on uint8 images, by Pillow."""

import numpy as np

from dmformer_keras.data.images import through_pillow

# Strongest setting: magnitude 30 of 30, as torchvision counts.
STRONGEST = 30
# The gray that turning, shearing or shifting uncovers.
FILL = 128
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 1 / 0.3)
_ERASING_ATTEMPTS = 10


def draw_operations(rng, operations):
    """Draws which operations an image gets; returns a tuple of (name, sign), the sign being 1 or
    -1.

    Source: Cubuk et al. 2020, "RandAugment".
    """
    return tuple(
        (tuple(OPERATIONS)[rng.integers(len(OPERATIONS))], int(rng.choice((-1, 1))))
        for _ in range(operations)
    )


def operated(image, drawn, magnitude):
    """Applies operations that were drawn, one after another, all of one magnitude; returns a uint8
    array, as `image`.

    Source: the fourteen operations and their ranges are torchvision's. What turning, shearing or
    shifting uncovers is gray. Channels are all changed alike, one of transparency, too.

    Example:

    >>> image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), "uint8")
    >>> drawn = draw_operations(np.random.default_rng(1), 2)
    >>> operated(image, drawn, magnitude=9).shape
    (32, 32, 3)
    """
    for name, sign in drawn:
        image = OPERATIONS[name](image, magnitude / STRONGEST, sign)
    return image


def with_noise(image, drawn):
    """Replaces a box of an image by noise that was drawn; returns a uint8 array, as `image`."""
    if drawn is None:
        return image
    top, left, noise = drawn
    image = image.copy()
    image[top : top + noise.shape[0], left : left + noise.shape[1]] = noise
    return image


def draw_noise(shape, rng):
    """Draws the box of noise that replaces a part of an image; returns (top, left, uint8 array (box
    height, box width, channels)), or None where no box fitted.

    Source: Zhong et al. 2020, "Random Erasing Data Augmentation".
    """
    height, width = shape[:2]
    for _ in range(_ERASING_ATTEMPTS):
        area = height * width * rng.uniform(*_ERASED_AREA)
        ratio = np.exp(rng.uniform(*np.log(_ERASED_RATIO)))
        box_height, box_width = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < box_height < height and 0 < box_width < width:
            top, left = (
                rng.integers(side - part + 1)
                for side, part in ((height, box_height), (width, box_width))
            )
            return top, left, rng.integers(0, 256, (box_height, box_width, shape[2]), np.uint8)
    return None


def enhancement(strength, sign):
    """The factor of color, contrast, brightness and sharpness: 1 changes nothing."""
    return 1 + sign * 0.9 * strength


def _enhanced(name):
    def operation(image, strength, sign):
        from PIL import ImageEnhance

        if name == "Color" and image.shape[-1] != 3:
            return image
        enhance = getattr(ImageEnhance, name)
        factor = enhancement(strength, sign)
        return through_pillow(image, lambda band: enhance(band).enhance(factor))

    return operation


def _moved(name):
    """An affine operation, see `MOVES`."""

    def operation(image, strength, sign):
        from PIL import Image

        height, width = image.shape[:2]
        data = MOVES[name](sign * strength, width, height)
        fill = (FILL,) * 3 if image.shape[-1] == 3 else FILL
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


# Six numbers that lead from a point (x, y) to its origin, (a x + b y + c, d x + e y + f), of
# `amount` in -1..1 and the image's width and height.
MOVES = {
    "rotate": _turned,
    "shear_x": lambda amount, width, height: (1, 0.3 * amount, 0, 0, 1, 0),
    "shear_y": lambda amount, width, height: (1, 0, 0, 0.3 * amount, 1, 0),
    "translate_x": lambda amount, width, height: (1, 0, 150 / 331 * width * amount, 0, 1, 0),
    "translate_y": lambda amount, width, height: (1, 0, 0, 0, 1, 150 / 331 * height * amount),
}


def posterized_bits(strength):
    """How many bits of each value posterizing keeps."""
    return 8 - round(4 * strength)


def solarized_from(strength):
    """The least value that solarizing inverts."""
    return 256 - round(256 * strength)


# In the order in which they are drawn.
OPERATIONS = {
    "identity": lambda image, strength, sign: image,
    "autocontrast": _by_pillow(lambda ops, band, strength: ops.autocontrast(band)),
    "equalize": _by_pillow(lambda ops, band, strength: ops.equalize(band)),
    "posterize": _by_pillow(
        lambda ops, band, strength: ops.posterize(band, posterized_bits(strength))
    ),
    "solarize": _by_pillow(
        lambda ops, band, strength: ops.solarize(band, solarized_from(strength))
    ),
    "color": _enhanced("Color"),
    "contrast": _enhanced("Contrast"),
    "brightness": _enhanced("Brightness"),
    "sharpness": _enhanced("Sharpness"),
    **{name: _moved(name) for name in MOVES},
}
