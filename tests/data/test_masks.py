import io
import struct

import numpy as np
import pytest
from image_files import encode, random_image
from PIL import Image

from dmformer_keras.data.masks import (
    IGNORED_LABEL,
    MaskClasses,
    class_palette,
    decode_mask,
    read_mask,
)
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent

LABELS = np.random.default_rng(0).integers(0, 4, (7, 9)).astype(np.uint8)


def saved(image, fmt="PNG", **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def palette_image(labels):
    image = Image.fromarray(labels)
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    return image


def grey_png(labels, bits):
    """A grey PNG of 1, 2 or 4 bits, which Pillow itself does not write."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = labels.shape
    rows = b""
    for row in labels:
        stream = "".join(f"{value:0{bits}b}" for value in row)
        stream += "0" * (-len(stream) % 8)
        rows += b"\0" + int(stream, 2).to_bytes(len(stream) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "GIF", "TIFF"])
def test_grey_and_palette_masks_give_their_stored_values(fmt):
    np.testing.assert_array_equal(decode_mask(encode(LABELS, fmt)), LABELS)
    np.testing.assert_array_equal(decode_mask(saved(palette_image(LABELS), fmt)), LABELS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_are_not_stretched(bits):
    labels = LABELS % 2**bits
    np.testing.assert_array_equal(decode_mask(grey_png(labels, bits)), labels)
    palette = saved(palette_image(labels), bits=bits)
    np.testing.assert_array_equal(decode_mask(palette), labels)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_masks_keep_large_labels(fmt):
    labels = np.array([[0, 300, 65535]], np.uint16)
    np.testing.assert_array_equal(decode_mask(encode(labels, fmt)), labels)


def test_rgb_masks_give_colors_also_with_an_opaque_alpha():
    colors = random_image(3)
    np.testing.assert_array_equal(decode_mask(encode(colors)), colors)
    np.testing.assert_array_equal(decode_mask(encode(colors, mode="RGBA")), colors)


def test_transparency_of_a_palette_changes_no_label():
    encoded = saved(palette_image(LABELS), transparency=1)
    np.testing.assert_array_equal(decode_mask(encoded), LABELS)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (encode(LABELS, "JPEG"), "'a'.*JPEG does not keep the values.*PNG"),
        (encode(random_image(0), "WEBP"), "WEBP does not keep"),
        (encode(random_image(0), "TIFF", compression="jpeg"), "does not keep"),
        (encode(np.dstack([random_image(0)] * 2)[..., :4]), "partly transparent.*RGBA"),
        (encode(np.array([[[0, 255], [1, 128]]], np.uint8), mode="LA"), "partly transparent.*LA"),
        (encode(np.zeros((2, 2), np.float32), "TIFF"), "'F'"),
        (encode(LABELS)[:-30], "Cannot decode 'a'"),
        (b"nothing", "not a PNG, BMP, GIF or TIFF"),
    ],
)
def test_what_is_no_exact_mask_is_refused(encoded, message):
    with pytest.raises(DMFormerError, match=message):
        decode_mask(encoded, "'a'")


def test_a_white_is_zero_tiff_is_refused():
    encoded = saved(Image.fromarray(LABELS), "TIFF", tiffinfo={262: 0})
    with pytest.raises(DMFormerError, match="white is 0"):
        decode_mask(encoded)
    # Taken for granted where the entry is missing: here it is that of a tag that nobody knows.
    entry = struct.pack("<HHI", 262, 3, 1)
    encoded = saved(Image.fromarray(LABELS), "TIFF")
    assert encoded.count(entry) == 1
    with pytest.raises(DMFormerError, match="white is 0"):
        decode_mask(encoded.replace(entry, struct.pack("<HHI", 265, 3, 1)))


TABLE = [
    (9, "road", (1, 2, 3)),
    (2, "sky", (200, 0, 0)),
    (5, "Void", (0, 0, 0)),
    (7, "background", (0, 0, 9)),
]


def test_classes_are_numbered_by_label_without_the_ignored():
    classes = MaskClasses.of_table(TABLE)
    assert classes.names == ("sky", "background", "road")
    assert classes.colors == ((200, 0, 0), (0, 0, 9), (1, 2, 3))
    labels = np.array([[2, 7, 9], [5, 255, 2]])
    np.testing.assert_array_equal(classes.indexes(labels, "m"), [[0, 1, 2], [255, 255, 0]])
    colors = np.array([[(200, 0, 0), (0, 0, 9), (1, 2, 3), (0, 0, 0)]], np.uint8)
    found = classes.indexes(colors, "m")
    np.testing.assert_array_equal(found, [[0, 1, 2, 255]])
    assert found.dtype == np.uint8


@pytest.mark.parametrize("name", ["void", "IGNORE", "Ignored", "unlabeled", "unlabelled"])
def test_names_of_ignored_classes(name):
    rows = [(0, name, None), (1, "a", None), (2, "b", None)]
    assert MaskClasses.of_table(rows).names == ("a", "b")


def test_ignored_labels_may_have_any_name():
    classes = MaskClasses.of_table(TABLE, [7, 100])
    assert classes.names == ("sky", "road")
    np.testing.assert_array_equal(classes.indexes(np.array([[7, 100, 9]]), "m"), [[255, 255, 1]])
    np.testing.assert_array_equal(
        classes.indexes(np.array([[(0, 0, 9), (1, 2, 3)]], np.uint8), "m"), [[255, 1]]
    )


def test_without_names_classes_are_the_labels_up_to_the_highest():
    classes = MaskClasses.of_labels({0, 3, 255, 2}, [2])
    assert classes.names == ("0", "1", "3")
    np.testing.assert_array_equal(classes.indexes(np.array([[3, 2, 1]]), "m"), [[2, 255, 1]])
    assert len(set(classes.colors)) == 3


def test_unknown_labels_and_colors_are_named_with_their_pixels():
    classes = MaskClasses.of_table(TABLE)
    with pytest.raises(DMFormerError, match=r"mask m has label 4 in 2 pixel\(s\), label -1 in 1"):
        classes.indexes(np.array([[4, 4, -1, 2]]), "m")
    with pytest.raises(DMFormerError, match=r"label 70000 in 1"):
        classes.indexes(np.array([[70000, 2]]), "m")
    with pytest.raises(DMFormerError, match="and 4 more"):
        classes.indexes(np.arange(10, 19)[None], "m")
    photograph = np.arange(2 * 2**15).reshape(-1, 256)
    with pytest.raises(DMFormerError, match=r"in at least 2 pixel\(s\).* and \d{4} more"):
        classes.indexes(np.concatenate([photograph[:1], photograph]), "m")
    with pytest.raises(DMFormerError, match=r"color \(200, 0, 1\) in 1 pixel"):
        classes.indexes(np.array([[(200, 0, 1), (200, 0, 0)]], np.uint8), "m")


def test_rgb_masks_need_colors():
    classes = MaskClasses.of_labels({0, 1})
    with pytest.raises(DMFormerError, match=r"classes\.tsv .*index, name, red, green, blue"):
        classes.indexes(random_image(0), "m")


COLORS = {label: color for label, _, color in TABLE}
MEANS = {2: 0, 7: 1, 9: 2, 5: 255}  # class indexes by label


def drawn(labels):
    """The RGB mask of labels of TABLE."""
    return np.array([[COLORS[label] for label in row] for row in labels.tolist()], np.uint8)


def means(labels):
    return np.vectorize(MEANS.get)(labels)


def table_labels(seed=0):
    return np.random.default_rng(seed).choice(list(COLORS), (7, 9))


@pytest.mark.parametrize("fmt", ["PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("seed", range(3))
def test_a_palette_of_class_colors_is_read_by_color_in_any_order(fmt, seed):
    labels = table_labels(seed)
    colors = np.random.default_rng(seed).permutation(list(COLORS.values()))
    places = np.argmax((drawn(labels)[:, :, None] == colors).all(-1), axis=-1)
    image = Image.fromarray(places.astype(np.uint8))
    image.putpalette(colors.astype(np.uint8).tobytes() + bytes(range(90)))
    found = MaskClasses.of_table(TABLE).indexes(read_mask(saved(image, fmt)), "m")
    np.testing.assert_array_equal(found, means(labels))


def test_as_pillow_makes_palettes_of_rgb_masks():
    labels = table_labels()
    image = Image.fromarray(drawn(labels)).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    found = MaskClasses.of_table(TABLE).indexes(read_mask(saved(image)), "m")
    np.testing.assert_array_equal(found, means(labels))


def test_a_palette_of_other_colors_than_the_classes_is_refused():
    image = Image.fromarray(np.array([[2, 7, 9]], np.uint8))
    image.putpalette(bytes([50, 60, 70] * 256))
    message = r"'m' shows \(50, 60, 70\).*, which no class .*save it as grey"
    with pytest.raises(DMFormerError, match=message):
        MaskClasses.of_table(TABLE).indexes(read_mask(saved(image)), "'m'")
    without = MaskClasses.of_table([(label, name, None) for label, name, _ in TABLE])
    np.testing.assert_array_equal(without.indexes(read_mask(saved(image)), "m"), [[0, 1, 2]])


def test_ignored_pixels_need_no_color_in_a_palette():
    image = Image.fromarray(np.array([[2, 255, 9]], np.uint8))
    palette = np.full((256, 3), 200, np.uint8)
    palette[list(COLORS)] = list(COLORS.values())
    image.putpalette(palette.tobytes())
    found = MaskClasses.of_table(TABLE).indexes(read_mask(saved(image)), "m")
    np.testing.assert_array_equal(found, [[0, 255, 2]])


def grey_table(*shades):
    return MaskClasses.of_table(
        [(label, f"class {label}", (shade,) * 3) for label, shade in enumerate(shades)]
    )


@pytest.mark.parametrize("shades", [(0, 255), (0, 128, 255), (255, 0), (10, 20, 30)])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA"])
def test_grey_masks_whose_values_are_colors(shades, mode):
    labels = np.random.default_rng(0).integers(0, len(shades), (7, 9))
    labels[0, : len(shades)] = range(len(shades))
    encoded = encode(np.array(shades, np.uint8)[labels], mode=mode)
    np.testing.assert_array_equal(grey_table(*shades).indexes(read_mask(encoded), "m"), labels)


def test_black_and_white_masks_of_one_bit():
    labels = np.random.default_rng(0).integers(0, 2, (7, 9))
    for shades in ((0, 255), (255, 0)):
        bits = grey_png(labels if shades[1] else 1 - labels, 1)
        classes = grey_table(*shades)
        if shades == (0, 255):
            np.testing.assert_array_equal(classes.indexes(read_mask(bits), "m"), labels)
            continue
        with pytest.raises(DMFormerError, match="labels of some classes and the colors of others"):
            classes.indexes(read_mask(bits), "m")


def test_grey_masks_of_labels_stay_labels_where_classes_have_colors():
    labels = table_labels()
    found = MaskClasses.of_table(TABLE).indexes(read_mask(encode(labels.astype(np.uint8))), "m")
    np.testing.assert_array_equal(found, means(labels))


def test_a_grey_mask_that_means_two_things_is_refused():
    table = [(0, "sky", (9, 0, 0)), (1, "road", (8, 0, 0)), (2, "void", (0, 0, 0))]
    with pytest.raises(DMFormerError, match=r"grey mask 'm' \(0\) are labels of some"):
        MaskClasses.of_table(table).indexes(read_mask(encode(np.zeros((2, 2), "uint8"))), "'m'")


@pytest.mark.parametrize("grey", [False, True])
def test_transparent_pixels_are_void_where_that_is_a_class(grey):
    shades = {0: (0, 0, 0), 3: (90, 90, 90), 4: (200, 200, 200)}
    table = [(0, "void", shades[0]), (3, "a", shades[3]), (4, "b", shades[4])]
    image = np.array([[[90, 255], [200, 255], [77, 0]]], np.uint8)
    if not grey:
        colors = [[*shades[3], 255], [*shades[4], 255], [1, 2, 3, 0]]
        image = np.array([colors], np.uint8)
    mask = read_mask(encode(image, mode="LA" if grey else None))
    np.testing.assert_array_equal(
        MaskClasses.of_table(table).indexes(mask, "m"), [[0, 1, IGNORED_LABEL]]
    )
    nothing = read_mask(encode(image * 0, mode="LA" if grey else None))
    assert (MaskClasses.of_table(table).indexes(nothing, "m") == IGNORED_LABEL).all()
    with pytest.raises(DMFormerError, match=r"1 transparent pixel.* no class is called void"):
        MaskClasses.of_table(table[1:]).indexes(mask, "m")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, "a", None), (0, "b", None)], "index 0 for 'b'"),
        ([(-1, "a", None), (0, "b", None)], "index -1"),
        ([(0, "a", None), (1, "a", None)], "two classes called 'a'"),
        ([(0, "a", None), (1, "", None)], "no name for index 1"),
        ([(0, "a", None), (255, "b", None)], "255 for 'b', which is kept"),
        ([(0, "a", (0, 0, 0)), (1, "b", (0, 0, 0))], "color .* twice"),
        ([(0, "a", (0, 0, 0)), (1, "b", None)], "none for 'b'"),
        ([(0, "a", (0, 0, 0)), (1, "b", (0, 0, 256))], "not in 0..255"),
        ([(0, "a", None), (1, "void", None)], r"1 class\(es\)"),
        ([(i + 300, str(i), None) for i in range(256)], r"256 class\(es\)"),
    ],
)
def test_wrong_tables(rows, message):
    with pytest.raises(DMFormerError, match=message):
        MaskClasses.of_table(rows)


def test_several_ignored_classes_may_share_a_color():
    rows = [*TABLE, (11, "ignore", (0, 0, 0))]
    assert MaskClasses.of_table(rows).names == ("sky", "background", "road")


def test_the_palette_is_that_of_pascal_voc_and_never_repeats():
    colors = class_palette(255)
    assert len(set(colors)) == 255
    assert colors[15] == (192, 128, 128)  # person
    assert colors[20] == (0, 64, 128)  # television
