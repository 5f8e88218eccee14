import concurrent.futures
import contextlib
import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from image_files import encode, random_image
from PIL import Image

from dmformer_keras.data import decode_image, images, load_image, open_source, resize_image
from dmformer_keras.data.images import checked_size, resize_mask
from dmformer_keras.data.masks import read_mask
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent

GRADIENT_16 = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
GRADIENT_8 = np.arange(256, dtype=np.uint8).reshape(16, 16)


def solid(color, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (20, 16), color).save(file, "PNG" if mode != "CMYK" else "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(fmt):
    image = decode_image(encode(GRADIENT_16, fmt))
    assert image.shape == (16, 16, 3)
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel], GRADIENT_8)


def test_16_bit_white_is_zero_tiff_is_inverted():
    file = io.BytesIO()
    Image.fromarray(GRADIENT_16).save(file, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(decode_image(file.getvalue(), 1)[..., 0], 255 - GRADIENT_8)


def test_16_bit_rgb_png_is_scaled():
    samples = np.repeat(GRADIENT_16.astype(">u2")[..., None], 3, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in samples)

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_image(png)[..., 1], GRADIENT_8)


def test_float_tiff_of_0_to_1_is_scaled():
    image = decode_image(encode(GRADIENT_8.astype(np.float32) / 255, "TIFF"), 1)
    np.testing.assert_array_equal(image[..., 0], GRADIENT_8)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.full((4, 4), 2.0, np.float32), "0..1"),
        (np.full((4, 4), np.nan, np.float32), "0..1"),
        (np.full((4, 4), 70000, np.int32), "8 or 16 bits"),
    ],
)
def test_tiff_samples_without_a_known_range_are_refused(samples, reason):
    with pytest.raises(DMFormerError, match=reason):
        decode_image(encode(samples, "TIFF"))


@pytest.mark.parametrize(
    ("ink", "color"),
    [
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_cmyk_jpeg_has_its_colors(ink, color):
    pixel = decode_image(solid(ink, "CMYK"))[8, 8].astype(int)
    assert np.abs(pixel - color).max() <= 3


def test_palette_grey_and_one_bit_images():
    flat = np.zeros((8, 8, 3), np.uint8)
    flat[:, 4:] = (200, 30, 60)
    paletted = Image.fromarray(flat).quantize(2)
    file = io.BytesIO()
    paletted.save(file, "PNG")
    assert Image.open(file).mode == "P"
    np.testing.assert_array_equal(decode_image(file.getvalue()), flat)
    grey = decode_image(encode(GRADIENT_8))
    np.testing.assert_array_equal(grey, np.repeat(GRADIENT_8[..., None], 3, -1))
    black_and_white = decode_image(encode(flat[..., 0], mode="1"))
    assert set(np.unique(black_and_white)) <= {0, 255}


def test_transparent_parts_lie_on_white_unless_alpha_is_asked_for():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, 2:] = (10, 20, 30, 255)
    encoded = encode(rgba)
    assert decode_image(encoded)[0].tolist() == [[255] * 3] * 2 + [[10, 20, 30]] * 2
    assert decode_image(encoded, 1)[0, 0].tolist() == [255]
    np.testing.assert_array_equal(decode_image(encoded, 4), rgba)
    grey_alpha = encode(rgba, mode="LA")
    assert decode_image(grey_alpha)[0, 0].tolist() == [255] * 3
    assert decode_image(encode(rgba[..., :3]), 4)[0, 0].tolist() == [0, 0, 0, 255]


def test_transparent_palette_color_lies_on_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 9, 9, 9])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=0)
    assert decode_image(file.getvalue())[0].tolist() == [[255] * 3, [9] * 3]


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_turns_the_image_upright(fmt):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: the left becomes the top
    image = decode_image(encode(pixels, fmt, exif=exif))
    assert image.shape == (32, 16, 3)
    assert image[:12].min() > 200
    assert image[20:].max() < 55


def test_broken_exif_does_not_matter():
    encoded = encode(random_image(0), "JPEG", exif=b"Exif\0\0not a TIFF header")
    assert decode_image(encoded).shape == (24, 30, 3)


def test_luminance_weighs_the_colors():
    assert decode_image(solid((255, 0, 0)), 1)[0, 0, 0] == 76
    assert decode_image(solid((0, 255, 0)), 1)[0, 0, 0] == 150


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (6, 5), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(file.getvalue())[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_file_names_itself(fmt):
    encoded = encode(random_image(1, 64, 64), fmt)
    with pytest.raises(DMFormerError, match=r"Cannot decode holiday\.img: .*; replace or remove"):
        decode_image(encoded[: len(encoded) // 2], name="holiday.img")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\nrubbish", b"%!PS-Adobe"])
def test_what_is_no_image_names_itself(content):
    with pytest.raises(DMFormerError, match="Cannot decode x"):
        decode_image(content, name="x")


def test_decompression_bomb_is_refused(monkeypatch):
    encoded = encode(random_image(0, 40, 40))
    monkeypatch.setattr(images, "PIXEL_LIMIT", 500)
    with pytest.raises(DMFormerError, match="over the limit of 500 pixels"):
        decode_image(encoded)


def test_other_channel_counts_are_refused():
    with pytest.raises(DMFormerError, match="as arrays"):
        decode_image(solid("red"), channels=5)


def test_load_image_says_when_there_is_no_file(tmp_path):
    with pytest.raises(DMFormerError, match=r"nothing\.png"):
        load_image(tmp_path / "nothing.png")


def test_load_image_is_decoding_and_resizing(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(random_image(3)))
    np.testing.assert_array_equal(load_image(path), random_image(3))
    np.testing.assert_array_equal(load_image(path, 16), resize_image(random_image(3), 16))


def test_crop_takes_the_centre_squash_the_whole_pad_adds_black():
    image = np.full((20, 60, 3), 50, np.uint8)
    image[:, 20:40] = 200
    assert (resize_image(image, 10)[:, 1:-1] == 200).all()
    squashed = resize_image(image, (10, 12), "squash")
    assert squashed[:, 0].max() == 50
    assert squashed[5, 6, 0] == 200
    padded = resize_image(image, 12, "pad")
    assert padded[:4].max() == 0
    assert padded[8:].max() == 0
    assert padded[4:8].min() == 50


def test_crop_fraction_keeps_less():
    image = np.zeros((40, 40, 1), np.uint8)
    image[10:30, 10:30] = 255
    assert resize_image(image, 20, crop_fraction=0.5).min() == 255
    assert resize_image(image, 20).min() == 0


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    small = resize_image(stripes, 8)
    assert np.abs(small.astype(int) - 127).max() < 12


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_any_number_of_channels_is_resized_channel_by_channel(channels):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, channels), np.uint8)
    large = resize_image(image, 32)
    assert large.shape == (32, 32, channels)
    for band in range(channels):
        alone = resize_image(np.ascontiguousarray(image[..., band : band + 1]), 32)
        np.testing.assert_array_equal(large[..., band], alone[..., 0])


@pytest.mark.parametrize("size", [0, -3, 2.5, "big", (3,), (3, 4, 5), None, (4, 0)])
def test_wrong_sizes_are_refused(size):
    with pytest.raises(DMFormerError, match="image_size"):
        checked_size(size)


@pytest.mark.parametrize("wrong", [("zoom", 1.0), ("crop", 0), ("crop", 1.5), ("pad", 0.9)])
def test_wrong_geometry_is_refused(wrong):
    with pytest.raises(DMFormerError):
        resize_image(random_image(0), 8, *wrong)


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_a_resized_mask_has_no_value_of_its_own(mode):
    mask = np.random.default_rng(0).choice([0, 7, 200], (37, 61)).astype(np.uint8)
    resized = resize_mask(mask, (20, 80), mode, padding=255)
    assert set(np.unique(resized)) == {0, 7, 200} | ({255} if mode == "pad" else set())


def gradient(height, width):
    ramp = np.linspace(0, 255, width)[None] * np.linspace(0.2, 1, height)[:, None]
    return np.repeat(ramp[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_a_very_large_image_is_made_smaller_while_it_is_decoded(monkeypatch, fmt):
    encoded = encode(gradient(320, 240), fmt)
    whole = decode_image(encoded)
    assert whole.shape == (320, 240, 3)
    monkeypatch.setattr(images, "KEPT_PIXELS", 320 * 240 // 4)
    np.testing.assert_array_equal(decode_image(encoded), whole)
    reduced = decode_image(encoded, reduce=True)
    assert reduced.shape == (160, 120, 3)
    difference = resize_image(reduced, (32, 24)).astype(int) - resize_image(whole, (32, 24))
    assert np.abs(difference).max() <= 4


@pytest.mark.parametrize(("share", "scale"), [(1, 1), (2, 2), (4, 2), (9, 4), (64, 8), (200, 8)])
def test_jpeg_is_decoded_at_the_size_that_is_kept(monkeypatch, share, scale):
    encoded = encode(gradient(320, 240), "JPEG")
    monkeypatch.setattr(images, "KEPT_PIXELS", 320 * 240 // share)
    with images.open_image(encoded, reduce=True) as image:
        assert image.size == (240 // scale, 320 // scale)
        image.load()
    assert decode_image(encoded, reduce=True)[..., 0].size <= 320 * 240 // share


@pytest.mark.parametrize("progressive", [False, True])
def test_progressive_photographs_are_decoded_one_at_a_time(monkeypatch, progressive):
    """Their decoder holds all coefficients, whatever the size that it gives."""
    file = io.BytesIO()
    Image.fromarray(gradient(320, 240)).save(file, "JPEG", progressive=progressive)
    for kept, is_large in ((320 * 240, False), (320 * 240 // 4, progressive)):
        monkeypatch.setattr(images, "KEPT_PIXELS", kept)
        with images.open_image(file.getvalue(), reduce=True) as image:
            assert (images.one_large_image(image) is images._large_images) == is_large


def test_a_photograph_is_reduced_for_classes_and_not_for_masks(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "KEPT_PIXELS", 100)
    photo, mask = encode(gradient(32, 24), "JPEG"), encode(np.eye(32, 24, dtype=np.uint8))
    for path, content in {
        "classes/a/0.jpg": photo, "classes/b/0.jpg": photo,
        "pairs/images/0.jpg": photo, "pairs/masks/0.png": mask,
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert open_source(tmp_path / "classes", "all").read(0)[0].shape == (8, 6, 3)
    assert open_source(tmp_path / "pairs", "all", task="segment").read(0)[0].shape == (32, 24, 3)
    assert load_image(tmp_path / "classes/a/0.jpg").shape == (32, 24, 3)


def test_pillow_warns_of_nothing(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for fmt in ("JPEG", "PNG"):
        decode_image(encode(gradient(32, 24), fmt))
    assert not recwarn.list
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(encode(gradient(32, 24), fmt)))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_damaged_headers_are_not_warned_of(compression, recwarn, capfd):
    whole = encode(gradient(16, 12)[..., 0], "TIFF", compression=compression)
    filters = list(warnings.filters)
    for place in range(len(whole)):
        damaged = whole[:place] + b"\xff" + whole[place + 1 :]
        for read in (decode_image, read_mask):
            with contextlib.suppress(DMFormerError):
                read(damaged)
    assert not recwarn.list
    assert warnings.filters == filters
    assert capfd.readouterr() == ("", "")


def test_warnings_of_pillow_are_kept_back_in_threads(recwarn):
    encoded = encode(gradient(16, 12), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    decode_image(encoded)

    def work(number):
        for _ in range(20):
            decode_image(encoded)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert not recwarn.list
    assert not [one for one in warnings.filters if getattr(one[3], "pattern", "") == r"PIL\."]


def test_other_warnings_are_shown_once_whatever_is_decoded_between(recwarn):
    for _ in range(3):
        decode_image(encode(gradient(16, 12)))
        warnings.warn("of others", UserWarning, stacklevel=1)
    assert [str(one.message) for one in recwarn.list] == ["of others"]


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", MODES)
def test_pixels_are_the_same_strip_by_strip(monkeypatch, mode, channels):
    image = Image.fromarray(np.dstack([gradient(40, 30), gradient(40, 30)[::-1, :, 0]]))
    if mode in ("I;16", "F"):
        samples = np.asarray(image.convert("L"))
        samples = samples.astype(np.uint16) << 8 if mode == "I;16" else samples / np.float32(255)
        image = Image.fromarray(samples)
    elif mode == "P":
        image = image.quantize(16)
    else:
        image = image.convert(mode)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    image.save(file, "TIFF" if mode in ("F", "CMYK", "YCbCr") else "PNG", exif=exif)
    whole = decode_image(file.getvalue(), channels)
    assert whole.shape == (30, 40, channels)
    assert whole.flags.writeable
    rows = []

    class FewPixels(int):
        def __floordiv__(self, width):
            rows.append(int(self) // width)
            return rows[-1]

    monkeypatch.setattr(images, "_STRIP_PIXELS", FewPixels(7 * 40))
    np.testing.assert_array_equal(decode_image(file.getvalue(), channels), whole)
    assert rows  # it went by strips, of fewer rows than the image has
    assert max(rows) < 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC image whatever its name says"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "is an AVIF image"),
        (b"\0\0\0\x1cftypisom\0\0\0\0isomiso2", "is a film"),
        (b"\xff\x0a....", "is a JPEG XL image"),
        (b"\n<!DOCTYPE HTML><html>404", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        (b"", "the file is empty"),
        (b"words", "not a JPEG, PNG"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(content, message):
    with pytest.raises(DMFormerError, match=f"'photo.jpg': .*{message}"):
        decode_image(content, name="'photo.jpg'")


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(2**35)
    for name, message in (
        ("pipe", "no regular file"),
        ("device", "no regular file"),
        ("sparse", "34,359,738,368 bytes, over the limit"),
    ):
        with pytest.raises(DMFormerError, match=message):
            load_image(tmp_path / f"{name}.png")
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "good.png").write_bytes(encode(random_image(0)))
    for name in ("pipe", "device", "sparse"):
        os.rename(tmp_path / f"{name}.png", tmp_path / "data/a" / f"{name}.png")
    source = open_source(tmp_path / "data", "all", on_corrupt="skip")
    assert len(source) == 2
    assert [path for path, _ in source.skipped] == [
        "a/device.png", "a/pipe.png", "a/sparse.png"
    ]  # fmt: skip
    with pytest.raises(DMFormerError, match="neither a folder nor a zip"):
        open_source(tmp_path / "data/a/pipe.png")
