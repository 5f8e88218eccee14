"""Masks: from the bytes of a mask file, by a table of classes, to class indexes."""

import collections
import dataclasses
import functools
import typing

import numpy as np

from dmformer_keras.data.images import (
    TIFF_BITS_PER_SAMPLE,
    TIFF_PHOTOMETRIC,
    TIFF_WHITE_IS_ZERO,
    by_strips,
    one_large_image,
    open_image,
    stated_image_errors,
)
from dmformer_keras.data.trees import check_class_names, check_no_twins, quoted
from dmformer_keras.errors import DMFormerError

# The value of pixels that count for nothing, in every mask that a source gives.
IGNORED_LABEL = 255
# JPEG and WebP are not among them: they do not keep values exactly.
MASK_FORMATS = ("PNG", "BMP", "GIF", "TIFF")
IGNORED_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled")

_MOST_CLASSES = 255
_LABEL_LIMIT = 2**16
_UNKNOWN = -1
_SHOWN_VALUES = 5
_COUNTED_VALUES = 2**12
_PNG_BIT_DEPTH = 24  # where the header of a PNG holds it


@dataclasses.dataclass(frozen=True)
class MaskClasses:
    """The classes of a segmentation, and how mask files hold them.

    Args:
        names: tuple of str, by class index.
        colors: tuple of (r, g, b), ints in 0..255, by class index, to draw masks with.
        by_label: dict from a label, as index masks hold it, to a class index or `IGNORED_LABEL`.
        by_color: dict from (r, g, b), as RGB masks hold it, likewise; empty where no colors
            are known.
        implied_labels: frozenset of the labels that no table and no user has named.

    Example:

    >>> classes = MaskClasses.of_table([(0, "sky", None), (4, "void", None), (7, "road", None)])
    >>> classes.names
    ('sky', 'road')
    >>> classes.indexes(np.array([[0, 7, 4, 255]]), "mask").tolist()
    [[0, 1, 255, 255]]
    """

    names: tuple
    colors: tuple
    by_label: dict
    by_color: dict
    implied_labels: frozenset = frozenset()

    @classmethod
    def of_table(cls, rows, ignored_labels=(), title="The class table"):
        """The classes of a table, in the order of their labels.

        A class called void, ignore, ignored, unlabeled or unlabelled, in capitals or not, is
        ignored: it is no class, and its pixels count for nothing.
        """
        rows = sorted(rows, key=lambda row: row[0])
        ignored = {IGNORED_LABEL, *ignored_labels}
        _check_rows(rows, title)
        with_color = [row for row in rows if row[2] is not None]
        if with_color and len(with_color) != len(rows):
            missing = next(name for _, name, color in rows if color is None)
            raise DMFormerError(
                f"{title} has colors, but none for {quoted(missing)}; give red, green and blue for "
                "every class or for none."
            )
        names, colors, by_label, by_color = [], [], {IGNORED_LABEL: IGNORED_LABEL}, {}
        for label, name, color in rows:
            index = len(names)
            if label in ignored or name.lower() in IGNORED_NAMES:
                index = IGNORED_LABEL
            else:
                names.append(name)
                colors.append(color)
            by_label[label] = index
            if color is not None and by_color.setdefault(color, index) != index:
                raise DMFormerError(
                    f"{title} has the color {color} twice, the second time for {quoted(name)}; "
                    "give every class its own."
                )
        by_label |= dict.fromkeys(ignored, IGNORED_LABEL)
        if not 2 <= len(names) <= _MOST_CLASSES:
            raise DMFormerError(
                f"{title} has {len(names)} class(es) besides those that are ignored, where 2 to "
                f"{_MOST_CLASSES} were expected; check names and labels."
            )
        check_no_twins(names, title)
        if not by_color:
            colors = class_palette(len(names))
        implied = {IGNORED_LABEL} - {row[0] for row in rows} - set(ignored_labels)
        return cls(tuple(names), tuple(colors), by_label, by_color, frozenset(implied))

    @classmethod
    def of_labels(cls, labels, ignored_labels=(), title="The data"):
        """Classes where nothing names them: every label from 0 to the highest one found; returns
        MaskClasses, named by their labels.

        Example:

        >>> MaskClasses.of_labels([1, 2, 3, 255], ignored_labels=[0]).names
        ('1', '2', '3')
        """
        ignored = {IGNORED_LABEL, *ignored_labels}
        present = set(map(int, labels)) - ignored
        if len(present) < 2:
            found = ", ".join(map(str, sorted(map(int, labels)))) or "none"
            raise DMFormerError(
                f"The masks of {title} hold fewer than two classes (labels found: {found}; 255 and "
                "ignored_labels do not count); number the classes 0, 1, 2, ... in the masks."
            )
        rows = [
            (label, str(label), None) for label in range(max(present) + 1) if label not in ignored
        ]
        return cls.of_table(rows, ignored, f"The label count of {title}")

    def indexes(self, mask, name):
        """The class indexes of a mask as its file holds it: a uint8 array (height, width), class
        indexes and `IGNORED_LABEL`.
        """
        if not isinstance(mask, StoredMask):
            mask = StoredMask(mask)
        values = mask.values
        if values.ndim == 3 and not self.by_color:
            raise DMFormerError(
                f"The mask {name} is an RGB image, but no class has a color; beside images/ and "
                "masks/ write a classes.tsv with a line for every class: index, name, red, green, "
                "blue, with tabs between."
            )
        if values.ndim == 3:
            found = by_strips(values, self._by_color)
        elif mask.colors is not None and self.by_color:
            found = self._by_label_or_color(mask, name)
        else:
            found = self._by_label(values)
        if mask.transparent is not None:
            found = self._with_transparent(found, mask.transparent, name)
        if found.min() < 0:
            raise DMFormerError(self._unknown(values, found < 0, name))
        return found.astype(np.uint8)

    def _by_label_or_color(self, mask, name):
        """What a grey or palette mask means where classes have colors as well as labels.

        Programs write RGB masks as palettes in any order, so a palette of class colors counts
        more than the values behind it. A grey mask holds labels unless it can only be colors.
        """
        seen = mask.values if mask.transparent is None else mask.values[~mask.transparent]
        table = np.full(len(mask.colors), _UNKNOWN, np.int16)
        used = np.unique(seen).astype(int)
        if not used.size:
            return table[mask.values]
        colors = mask.colors[used]
        by_label = self._by_label(used)
        by_color = np.where((colors < 0).any(axis=1), _UNKNOWN, self._by_color(colors[None])[0])
        if mask.is_palette:
            by_color[(by_color < 0) & (used == IGNORED_LABEL)] = IGNORED_LABEL
            chosen = by_color
            if by_color.min() < 0:
                raise DMFormerError(_disagreement(colors[by_color < 0], name))
        else:
            # 255 is ignored everywhere: it is no sign that a mask holds labels.
            are_labels = set(used.tolist()) <= self.by_label.keys() - self.implied_labels
            chosen = by_label if are_labels or (by_color < 0).any() else by_color
            if are_labels and (by_color >= 0).all() and (by_label != by_color).any():
                raise DMFormerError(
                    f"The values of the grey mask {name} ({_shown(used)}) are labels of some "
                    "classes and the colors of others; save it as RGB, or leave the colors out of "
                    "classes.tsv."
                )
        table[used] = chosen
        return table[mask.values]

    def _with_transparent(self, found, transparent, name):
        ignores = self.by_label.keys() - self.implied_labels
        ignores = any(self.by_label[label] == IGNORED_LABEL for label in ignores)
        if not ignores:
            raise DMFormerError(
                f"The mask {name} has {int(transparent.sum())} transparent pixel(s), and no class "
                "is called void; add one to classes.tsv, or fill these pixels."
            )
        return np.where(transparent, IGNORED_LABEL, found)

    def _by_label(self, mask):
        if mask.min() < 0 or mask.max() >= _LABEL_LIMIT:
            inside = mask.clip(0, _LABEL_LIMIT - 1)
            return np.where(inside == mask, self._label_table[inside], _UNKNOWN)
        return self._label_table[mask]

    def _by_color(self, mask):
        codes, indexes = self._color_codes
        wanted = _color_code(mask)
        places = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
        return np.where(codes[places] == wanted, indexes[places], _UNKNOWN)

    @functools.cached_property
    def _label_table(self):
        table = np.full(_LABEL_LIMIT, _UNKNOWN, np.int16)
        table[list(self.by_label)] = list(self.by_label.values())
        return table

    @functools.cached_property
    def _color_codes(self):
        codes = _color_code(np.array(list(self.by_color)))
        order = np.argsort(codes)
        return codes[order], np.array(list(self.by_color.values()), np.int16)[order]

    def _unknown(self, mask, unknown, name):
        counts, least = _counted(mask, unknown)
        worst = counts.most_common(_SHOWN_VALUES)
        shown = ", ".join(
            f"{f'color {_color(value)}' if mask.ndim == 3 else f'label {value}'} in {least}{count} "
            "pixel(s)"
            for value, count in worst
        )
        more = f" and {len(counts) - len(worst)} more" if len(counts) > len(worst) else ""
        return (
            f"The mask {name} has {shown}{more}, which no class has; correct the mask, add the "
            f"class to classes.tsv, or name the label in ignored_labels."
        )


class StoredMask(typing.NamedTuple):
    """A mask as its file holds it.

    Args:
        values: array (height, width) of labels, whole numbers, or uint8 array (height, width, 3)
            of colors.
        colors: int array (values, 3), the color that each label is shown in, -1 where it has
            none; None where labels cannot be taken for colors.
        is_palette: bool, whether the colors were chosen, and are not just shades of grey.
        transparent: bool array (height, width), or None where no pixel is.
    """

    values: np.ndarray
    colors: np.ndarray | None = None
    is_palette: bool = False
    transparent: np.ndarray | None = None


def decode_mask(encoded, name="mask"):
    """Decode a mask file to what it holds: labels, or colors; returns an int32 array (height,
    width) of labels, or uint8 array (height, width, 3) of colors.

    Grey images of 1, 2, 4, 8 and 16 bits and palette images hold labels: their stored values. RGB
    images hold colors. See `read_mask` for what else a mask tells.

    Example:

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.fromarray(np.array([[0, 3]], "uint8")).save(file, "PNG")
    >>> decode_mask(file.getvalue()).tolist()
    [[0, 3]]
    """
    values = read_mask(encoded, name).values
    return values if values.ndim == 3 else values.astype(np.int32)


def read_mask(encoded, name="mask"):
    """Decode a mask file with what may be needed to tell labels from colors."""
    check_mask_header(encoded, name)
    with (
        stated_image_errors(name, MASK_FORMATS, encoded),
        open_image(encoded, MASK_FORMATS) as image,
        one_large_image(image),
    ):
        tags = getattr(image, "tag_v2", {})
        # Pillow takes it for granted where the file says nothing.
        if tags and tags.get(TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO) == TIFF_WHITE_IS_ZERO:
            raise ValueError("a TIFF where white is 0 has no certain values, save it as PNG")
        image.load()
        return _stored(image, _bits(image, encoded, tags))


def check_mask_header(encoded, name="mask"):
    """Check that bytes begin like a mask that `decode_mask` reads, pixels unread."""
    with (
        stated_image_errors(name, MASK_FORMATS, encoded),
        open_image(encoded, (*MASK_FORMATS, "JPEG", "WEBP")) as image,
    ):
        if image.format not in MASK_FORMATS or image.info.get("compression") == "jpeg":
            raise ValueError(
                f"{image.format} does not keep the values of a mask exactly, save it again as PNG"
            )


def class_palette(count):
    """Colors that are easy to tell apart: the color map of the Pascal VOC challenge; returns a list
    of (r, g, b), ints in 0..255.

    The three bits that follow each other in a class's number go, from the highest bit of a color
    down, to red, green and blue (VOCcode/VOClabelcolormap.m of the VOC development kit, Everingham
    et al. 2010).

    Example:

    >>> class_palette(4)
    [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    """

    def component(number, channel):
        return sum(((number >> (3 * place + channel)) & 1) << (7 - place) for place in range(8))

    return [tuple(component(number, channel) for channel in range(3)) for number in range(count)]


def _check_rows(rows, title):
    check_class_names([name for _, name, _ in rows], title)
    seen = set()
    for label, name, color in rows:
        if not 0 <= label < _LABEL_LIMIT or label in seen:
            raise DMFormerError(
                f"{title} has the index {str(label)[:40]} for {quoted(name)}, which is there twice "
                f"or not in 0..{_LABEL_LIMIT - 1}; number every class once."
            )
        seen.add(label)
        if not name:
            raise DMFormerError(f"{title} has no name for index {label}; give one.")
        if label == IGNORED_LABEL and name.lower() not in IGNORED_NAMES:
            raise DMFormerError(
                f"{title} has the index {label} for {quoted(name)}, which is kept for ignored "
                "pixels; number the class otherwise, or call it void."
            )
        if color is not None and not all(0 <= part <= 255 for part in color):
            raise DMFormerError(
                f"{title} has the color {str(color)[:80]} for {quoted(name)}, not in 0..255; "
                "correct it."
            )


def _bits(image, encoded, tags):
    """The bits of a stored value."""
    if image.format == "PNG":
        return encoded[_PNG_BIT_DEPTH]
    return tags.get(TIFF_BITS_PER_SAMPLE, (8,))[0]


def _stored(image, bits):
    transparent = None
    if image.mode in ("RGBA", "LA") and bits == 8:
        alpha = image.getchannel("A")
        if any(alpha.histogram()[1:255]):
            raise ValueError(
                "a mask is a grey, palette or RGB image, but this one is partly transparent "
                f"({image.mode!r})"
            )
        alpha = by_strips(alpha, np.array) == 0
        transparent = alpha if alpha.any() else None
        image = image.convert(image.mode[:-1])
    if image.mode == "RGB":
        return StoredMask(by_strips(image, np.array), transparent=transparent)
    wide = image.mode.startswith("I;16") or image.mode == "I"
    if not (wide or image.mode in ("1", "L", "P")):
        raise ValueError(f"a mask is a grey, palette or RGB image, but this one is {image.mode!r}")
    values = by_strips(image, np.array)
    values = values.astype(np.uint8) if values.dtype == bool else values
    if wide:
        return StoredMask(values)
    step = 255 if image.mode == "1" else 1
    if image.mode == "L" and bits in (2, 4):
        step = 255 // (2**bits - 1)
        values //= step  # Pillow stretches these to 0..255
    grey = np.repeat(np.arange(256)[:, None] * step, 3, axis=1)
    grey[grey > 255] = -1
    if image.mode != "P":
        return StoredMask(values, grey, transparent=transparent)
    colors = np.full((256, 3), -1)
    palette = np.array(image.getpalette("RGB")).reshape(-1, 3)[:256]
    colors[: len(palette)] = palette
    used = np.unique(values)
    return StoredMask(values, colors, is_palette=bool((colors[used] != grey[used]).any()))


def _disagreement(colors, name):
    """What is said where a palette shows colors that no class has."""
    shown = _shown([tuple(color) if color[0] >= 0 else "nothing" for color in colors.tolist()])
    return (
        f"The palette of the mask {name} shows {shown}, which no class of classes.tsv has; give "
        "the palette the colors of the classes, or, if its values are labels, save it as grey or "
        "leave the colors out of classes.tsv."
    )


def _shown(values):
    """The first of some values."""
    more = ", …" if len(values) > _SHOWN_VALUES else ""
    return ", ".join(str(value) for value in values[:_SHOWN_VALUES]) + more


def _color_code(colors):
    red, green, blue = (colors[..., band].astype(np.int32) for band in range(3))
    return (red << 16) | (green << 8) | blue


def _color(code):
    return code >> 16, code >> 8 & 255, code & 255


def _counted(values, chosen):
    """How often each of the chosen labels or colors occurs, and "at least " where many do."""
    counts = collections.Counter()
    for row, is_chosen in zip(values, chosen, strict=True):
        found = row[is_chosen] if row.ndim == 1 else _color_code(row[is_chosen])
        for value, count in zip(*np.unique(found, return_counts=True), strict=True):
            counts[int(value)] += int(count)
        if len(counts) > _COUNTED_VALUES:  # a photograph, no mask
            return counts, "at least "
    return counts, ""
