"""Overlays, mask files and tables show what is in a mask, and nothing else."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dmformer_keras import DMFormerError
from dmformer_keras.data.masks import IGNORED_LABEL, class_palette, decode_mask
from dmformer_keras.inference.mask_pictures import class_table, draw_overlay, save_mask

pytestmark = pytest.mark.backend_independent

NAMES = ["road", "tree", "sky", "car"]
COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (10, 20, 30)]


@pytest.fixture
def photograph():
    return np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype="uint8")


@pytest.fixture
def mask():
    mask = np.full((240, 320), 2, "uint8")
    mask[:60] = 0
    mask[60:80, :160] = IGNORED_LABEL
    return mask


@pytest.fixture
def written(monkeypatch):
    """The texts that are drawn, with their places and sizes."""
    texts = []
    draw = ImageDraw.ImageDraw.text

    def text(self, position, text, *arguments, **keywords):
        texts.append((text, position, arguments[1].size))
        return draw(self, position, text, *arguments, **keywords)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_an_overlay_is_the_blend_of_photograph_and_colors(photograph, mask, opacity):
    drawn = np.asarray(draw_overlay(photograph, mask, NAMES, COLORS, opacity))[:240, :320]
    labeled = mask != IGNORED_LABEL
    colors = np.array(COLORS)[mask[labeled]]
    expected = (1 - opacity) * photograph[labeled] + opacity * colors
    assert np.abs(drawn[labeled] - expected).max() <= 1
    np.testing.assert_array_equal(drawn[~labeled], photograph[~labeled])


def test_grey_and_transparent_images_are_drawn_too(photograph, mask):
    grey, alpha = photograph[..., :1], np.zeros((240, 320, 1), "uint8")
    expected = draw_overlay(np.repeat(grey, 3, -1), mask, NAMES, COLORS)
    assert draw_overlay(grey, mask, NAMES, COLORS).tobytes() == expected.tobytes()
    expected = draw_overlay(photograph, mask, NAMES, COLORS)
    with_alpha = np.concatenate([photograph, alpha], -1)
    assert draw_overlay(with_alpha, mask, NAMES, COLORS).tobytes() == expected.tobytes()


def test_the_legend_lists_the_classes_that_occur_the_largest_first(photograph, mask, written):
    mask[200, :8] = 3
    picture = draw_overlay(photograph, mask, NAMES, COLORS)
    labeled = 240 * 320 - 20 * 160
    assert [text for text, _, _ in written] == [
        "sky",
        f"{100 * ((mask == 2).sum() / labeled):.1f} %",
        "road",
        f"{100 * (60 * 320 / labeled):.1f} %",
        "car",
        "< 0.1 %",
    ]
    # Beside each name lies a patch of the class's own color.
    names = [(text, position) for text, position, _ in written if text in NAMES]
    for name, (x, y) in names:
        assert picture.getpixel((x - 12, y)) == COLORS[NAMES.index(name)]


def test_shares_that_are_given_are_those_of_the_legend(photograph, mask, written):
    draw_overlay(photograph, mask, NAMES, COLORS, shares=[0.75, 0.1, 0.15, 0.0])
    assert [text for text, _, _ in written] == ["road", "75.0 %", "sky", "15.0 %"]


@pytest.mark.parametrize("size", [(240, 320), (1500, 2000), (20, 24)])
def test_the_legend_can_be_read_and_covers_nothing(size, written):
    classes = 9
    mask = np.arange(size[0] * size[1]).reshape(size) % classes
    names = [f"a class with the number {label}" for label in range(classes - 1)] + ["x" * 500]
    photograph = np.zeros((*size, 3), "uint8")
    picture = draw_overlay(photograph, mask, names, opacity=0)
    assert not np.asarray(picture)[: size[0], : size[1]].any()
    assert len(written) == 2 * classes
    for text, (x, y), font_size in written:
        assert font_size >= max(12, size[1] / 60)
        assert size[0] < y < picture.height
        assert 0 < x < picture.width
        assert len(text) <= 32
    assert written[-2][0] == "x" * 29 + "..."
    # The legend's margin on the right stays white: nothing is cut off.
    assert (np.asarray(picture)[size[0] :, -4:] == 255).all()
    assert picture.height < size[0] + 25 * max(12, size[1] / 56)


def test_a_mask_that_is_ignored_everywhere_leaves_the_photograph(photograph):
    picture = draw_overlay(photograph, np.full((240, 320), 255, "uint8"), NAMES, COLORS)
    np.testing.assert_array_equal(np.asarray(picture), photograph)
    assert class_table(np.full((240, 320), 255, "uint8"), NAMES) == []


def test_names_and_colors_may_be_left_out(photograph, mask, written):
    drawn = np.asarray(draw_overlay(photograph, mask, opacity=1.0))
    assert tuple(drawn[100, 0]) == class_palette(3)[2]
    assert [text for text, _, _ in written][::2] == ["2", "0"]
    assert [row[0] for row in class_table(mask)] == ["2", "0"]


def test_a_table_counts_the_pixels_of_each_class(mask):
    mask[0, :10] = 3
    table = class_table(mask, NAMES)
    assert [name for name, _, _ in table] == ["sky", "road", "car"]
    for name, pixels, share in table:
        assert pixels == (mask == NAMES.index(name)).sum()
        assert share == pixels / (mask != IGNORED_LABEL).sum()


def test_in_a_mask_of_16_bits_255_is_a_class(photograph):
    mask = np.full((240, 320), 255, "uint16")
    mask[:120] = 299
    assert [row[0] for row in class_table(mask, range(300))] == ["255", "299"]
    drawn = np.asarray(draw_overlay(photograph, mask, opacity=1.0))
    assert tuple(drawn[200, 0]) == class_palette(256)[255]


def test_a_mask_file_holds_the_indexes_and_shows_the_colors(mask, tmp_path):
    path = tmp_path / "mask.png"
    path.write_text("old")
    save_mask(mask, path, COLORS)
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), mask)
        colors = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colors[mask == 2], [COLORS[2]] * (mask == 2).sum())
    assert (colors[mask == IGNORED_LABEL] == (224, 224, 192)).all()
    np.testing.assert_array_equal(decode_mask(path.read_bytes()), mask)
    assert list(tmp_path.iterdir()) == [path]


def test_a_mask_file_of_more_than_256_classes_holds_the_indexes(tmp_path):
    mask = np.arange(600, dtype="uint16").reshape(20, 30)
    save_mask(mask, tmp_path / "mask.png")
    np.testing.assert_array_equal(decode_mask((tmp_path / "mask.png").read_bytes()), mask)


def test_a_mask_that_cannot_be_written_leaves_the_old_one(mask, tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    save_mask(mask, path, COLORS)
    before = path.read_bytes()

    def full(self, file, *arguments):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DMFormerError, match="No space left"):
        save_mask(mask, path, COLORS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_does_not_fit_together_is_named(photograph, mask, tmp_path):
    for wrong, words in [
        (lambda: draw_overlay(photograph[:100], mask), r"of the mask's size \(240, 320\)"),
        (lambda: draw_overlay(photograph / 255, mask), "must be a uint8 array"),
        (lambda: draw_overlay(photograph, mask, NAMES[:2]), "class 2, but class_names has 2"),
        (lambda: draw_overlay(photograph, mask, NAMES, COLORS[:1]), "class_colors has 1"),
        (lambda: draw_overlay(photograph, mask, NAMES, [(0, 0, 256)] * 4), "ints in 0..255"),
        (lambda: draw_overlay(photograph, mask, NAMES, COLORS, 1.5), "opacity must be in 0..1"),
        (lambda: draw_overlay(photograph, mask, shares=[1.0]), "shares has 1"),
        (lambda: class_table(mask.astype("float32")), "must be an integer array"),
        (lambda: class_table(mask.astype(int) - 9), "class indexes in 0..65535"),
        (lambda: class_table([[0, 1]]), "must be an integer array"),
        (lambda: save_mask(mask, tmp_path / "mask.jpg"), "ends in .png"),
        (lambda: save_mask(mask, tmp_path / "absent" / "mask.png"), "cannot be written"),
        (lambda: save_mask(mask[:0], tmp_path / "mask.png"), "no pixels"),
    ]:
        with pytest.raises(DMFormerError, match=words):
            wrong()
    assert not list(tmp_path.iterdir())
