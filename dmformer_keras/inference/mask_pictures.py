"""Segmentations as pictures that a person can judge: overlays, palette PNGs, tables.

```python
from dmformer_keras.drawing import class_table, draw_overlay, save_mask

draw_overlay(image, mask, class_names, class_colors).save("street_overlay.png")
save_mask(mask, "street_mask.png", class_colors)
for name, pixels, share in class_table(mask, class_names):
    print(f"{share:6.1%}  {name}")
```

Masks hold class indexes, and 255 for pixels of no class. In a uint16 mask, as a model of
more than 255 classes gives it, 255 is a class like any other. Pillow does the drawing; it
is imported when first used.
"""

import math
from pathlib import Path

import numpy as np

from dmformer_keras.checks import is_finite_number, is_positive_int
from dmformer_keras.data.masks import IGNORED_LABEL, class_palette
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.files import written_whole

_IGNORED_COLOR = (224, 224, 192)  # that of Pascal VOC's masks

# The text grows with the picture, because every picture is shown at the width of a screen or page.
_FONT_SHARE, _SMALLEST_FONT = 1 / 56, 12
_LONGEST_NAME = 32
_STRIP_PIXELS = 2**20


def draw_overlay(image, mask, class_names=None, class_colors=None, opacity=0.5, shares=None):
    """Lays the colors of the classes over an image, with a legend below it.

    The legend lists the classes that occur, the largest first: color, name, and share of
    the pixels that have a class. Ignored pixels stay as they are.

    Args:
        image: uint8 array (height, width, channels) of 1 (grey), 3 (RGB) or 4 channels (RGB
            and alpha, which is not drawn).
        mask: integer array (height, width) of class indexes.
        class_names: sequence of str, by class index; `None` shows the indexes.
        class_colors: sequence of (r, g, b) in 0..255, by class index; `None` takes
            `dmformer_keras.data.masks.class_palette`.
        opacity: float in 0..1, that of the colors.
        shares: sequence of floats in 0..1, by class index, to show in the legend instead of
            those of this mask, or `None`.

    Returns:
        `PIL.Image.Image` in RGB: the image in its own size, and the legend below, wider
        where it needs to be.

    Raises:
        DMFormerError: an argument is wrong, or they do not belong together.

    Example:

    >>> mask = np.zeros((240, 320), "uint8")
    >>> mask[:, :100] = 1
    >>> picture = draw_overlay(np.zeros((240, 320, 3), "uint8"), mask, ["road", "tree"])
    >>> picture.width, picture.getpixel((0, 0)), picture.getpixel((319, 0))
    (320, (64, 0, 0), (0, 0, 0))
    """
    counts = _class_counts(mask)
    _check_image(image, mask)
    if not is_finite_number(opacity) or not 0 <= opacity <= 1:
        raise DMFormerError(f"opacity must be in 0..1, not {opacity!r}.")
    names = _names(class_names, counts)
    colors = _colors(class_colors, counts)
    if shares is None:
        shares = counts / max(counts.sum(), 1)
    shares = _for_each_class("shares", shares, counts)
    entries = [
        (colors[label], _shortened(names[label]), _percent(shares[label]))
        for label in sorted(np.flatnonzero(counts), key=lambda label: -shares[label])
    ]
    picture = _with_legend(*mask.shape[::-1], entries)
    _paste_blended(picture, image, mask, colors, float(opacity))
    return picture


def save_mask(mask, path, class_colors=None):
    """Writes a mask to a PNG whose pixel values are the class indexes, shown in colors.

    Args:
        mask: integer array (height, width) of class indexes. One that holds more than 255
            is written as a grey PNG of 16 bits, for a palette has no more colors.
        path: str or path of the file, ending in `.png`. An old one is replaced once the
            new one is whole.
        class_colors: as in `draw_overlay`.

    Raises:
        DMFormerError: an argument is wrong, or the file cannot be written.

    Example:

    >>> import os, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "mask.png")
    ...     save_mask(np.array([[0, 1], [2, 255]]), path, [(0, 0, 0), (9, 9, 9), (250, 0, 0)])
    ...     image = Image.open(path)
    ...     np.asarray(image).tolist(), image.convert("RGB").getpixel((0, 1))
    ([[0, 1], [2, 255]], (250, 0, 0))
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise DMFormerError(
            f"A mask is written as PNG, which keeps class indexes exact, not as {path.name!r}; "
            "give a path that ends in .png."
        )
    colors = _colors(class_colors, _class_counts(mask))
    if not mask.size:
        raise DMFormerError(
            f"The mask has no pixels, its shape is {mask.shape}; give one that has."
        )
    if mask.max() > IGNORED_LABEL:
        picture = Image.fromarray(mask.astype(np.uint16))
    else:
        picture = Image.fromarray(mask.astype(np.uint8))
        picture.putpalette(_palette(colors).tobytes())
    with written_whole(path) as beside:
        picture.save(beside, "PNG")


def class_table(mask, class_names=None):
    """Counts the pixels of each class that occurs in a mask.

    Args:
        mask: integer array (height, width) of class indexes.
        class_names: sequence of str, by class index; `None` gives the indexes.

    Returns:
        list of (name, pixels, share): str, int, and float in 0..1 of the pixels that are
        not ignored; the largest first.

    Raises:
        DMFormerError: the mask is no array of class indexes, or holds one without a name.

    Example:

    >>> class_table(np.array([[0, 1], [1, 255], [1, 255]]), ["road", "tree", "sky"])
    [('tree', 3, 0.75), ('road', 1, 0.25)]
    """
    counts = _class_counts(mask)
    names = _names(class_names, counts)
    return [
        (names[label], int(counts[label]), float(counts[label] / counts.sum()))
        for label in np.argsort(-counts, kind="stable")
        if counts[label]
    ]


def _class_counts(mask):
    """Checks a mask; returns how often each class index occurs, up to the last that does."""
    if (
        not isinstance(mask, np.ndarray)
        or mask.ndim != 2
        or mask.dtype.kind not in "iu"
        or mask.min(initial=0) < 0
        or mask.max(initial=0) > np.iinfo(np.uint16).max
    ):
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else repr(mask)[:100]
        raise DMFormerError(
            "mask must be an integer array (height, width) of class indexes in 0..65535, as "
            f"dmformer_keras.inference.segment_image gives it, not {got}."
        )
    counts = np.zeros(0, np.int64)
    for row in mask:  # each is widened to whole numbers of 64 bits
        found = np.bincount(row, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    if mask.dtype != np.uint16 and len(counts) > IGNORED_LABEL:
        counts[IGNORED_LABEL] = 0
    return np.trim_zeros(counts, "b")


def _is_ignored(mask):
    return np.full(mask.shape, False) if mask.dtype == np.uint16 else mask == IGNORED_LABEL


def _check_image(image, mask):
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[-1] not in (1, 3, 4)
        or image.shape[:2] != mask.shape
        or not image.size
    ):
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else repr(image)[:100]
        raise DMFormerError(
            "image must be a uint8 array (height, width, channels) of 1, 3 or 4 channels and of "
            f"the mask's size {mask.shape}, not {got}."
        )


def _names(class_names, counts):
    if class_names is None:
        class_names = range(len(counts))
    return [str(name) for name in _for_each_class("class_names", class_names, counts)]


def _colors(class_colors, counts):
    if class_colors is None:
        return class_palette(len(counts))
    colors = [tuple(color) for color in _for_each_class("class_colors", class_colors, counts)]
    for color in colors:
        if len(color) != 3 or not all(
            part == 0 or (is_positive_int(part) and part <= 255) for part in color
        ):
            raise DMFormerError(
                f"class_colors must be (r, g, b) of ints in 0..255 for each class, not {color!r}."
            )
    return colors


def _for_each_class(name, values, counts):
    values = list(values)
    if len(values) < len(counts):
        raise DMFormerError(
            f"The mask holds the class {len(counts) - 1}, but {name} has {len(values)} entries; "
            "give one for each class, in the order of their indexes."
        )
    return values


def _palette(colors):
    palette = np.zeros((IGNORED_LABEL + 1, 3), np.uint8)
    palette[IGNORED_LABEL] = _IGNORED_COLOR
    palette[: len(colors)] = np.reshape(colors[: len(palette)], (-1, 3))
    return palette


def _paste_blended(picture, image, mask, colors, opacity):
    """Draws an image under the colors of its classes, strip by strip for the sake of memory."""
    from PIL import Image

    rows = max(1, _STRIP_PIXELS // mask.shape[1])
    palette = np.array([*colors, _IGNORED_COLOR], np.uint8)
    for top in range(0, len(mask), rows):
        part = mask[top : top + rows]
        photograph = np.array(np.broadcast_to(image[top : top + rows, :, :3], (*part.shape, 3)))
        is_ignored = _is_ignored(part)
        colored = palette.take(part, axis=0, mode="clip")
        colored[is_ignored] = photograph[is_ignored]
        blended = Image.blend(Image.fromarray(photograph), Image.fromarray(colored), opacity)
        picture.paste(blended, (0, top))


def _with_legend(width, height, entries):
    """Returns a picture with a legend of (color, name, share) in columns, and room above it."""
    from PIL import Image, ImageDraw, ImageFont

    if not entries:
        return Image.new("RGB", (width, height))
    size = max(_SMALLEST_FONT, round(width * _FONT_SHARE))
    font = ImageFont.load_default(size)
    gap, line = size // 2, round(1.6 * size)
    name_width, share_width = (
        math.ceil(max(font.getlength(entry[place]) for entry in entries)) for place in (1, 2)
    )
    column = size + gap + name_width + gap + share_width
    columns = max(1, min(len(entries), width // (column + 2 * gap)))
    rows = math.ceil(len(entries) / columns)
    width = max(width, column + 2 * gap)
    result = Image.new("RGB", (width, height + rows * line + gap), "white")
    draw = ImageDraw.Draw(result)
    for number, (color, name, share) in enumerate(entries):
        left = gap + number // rows * (column + 2 * gap)
        top = height + gap // 2 + number % rows * line
        patch = (left, top + line // 2 - size // 2)
        corner = (patch[0] + size - 1, patch[1] + size - 1)
        draw.rectangle((patch, corner), color, "grey", max(1, size // 16))
        draw.text((left + size + gap, top + line // 2), name, "black", font, "lm")
        draw.text((left + column, top + line // 2), share, "black", font, "rm")
    return result


def _percent(share):
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _shortened(name):
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."
