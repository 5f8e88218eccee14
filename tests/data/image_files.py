"""Bytes of small image files, and the layout of small folders, for the tests of data."""

import io

import numpy as np
from PIL import Image


def encode(array, fmt="PNG", mode=None, **options):
    """The bytes of an image file that holds `array`."""
    file = io.BytesIO()
    image = Image.fromarray(array)
    if mode:
        image = image.convert(mode)
    image.save(file, fmt, **options)
    return file.getvalue()


def random_image(seed, height=24, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def two_classes(count=10, prefix=""):
    """{path: seed} of `count` images in each of the classes cat and dog."""
    return {
        f"{prefix}{name}/{number}.png": 100 * label + number
        for label, name in enumerate(("cat", "dog"))
        for number in range(count)
    }
