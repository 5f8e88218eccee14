"""Image bytes to arrays, and arrays to the size a network takes.

One decoder and one resizing serve training, evaluation and prediction, so the three
see the same pixels. Pillow does the work; it is imported when first used.
"""

import contextlib
import functools
import io
import operator
import os
import re
import struct
import threading
import warnings

import numpy as np

from dmformer_keras.data.other_files import unread_kind
from dmformer_keras.data.trees import quoted, read_regular_file
from dmformer_keras.errors import DMFormerError
from dmformer_keras.type_names import ImageSize, PathLike, Pixels

# What `decode_image` reads. Naming the formats keeps Pillow's rarer parsers (and
# those that start other programs, such as EPS) away from files nobody vouches for.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
# The most pixels that are decoded, and the most that are kept of an image which is made smaller.
PIXEL_LIMIT = 2**27
KEPT_PIXELS = 2**25
RESIZE_MODES = ("crop", "squash", "pad")
# The shares of red, green and blue in a grey image: ITU-R BT.601, as Pillow has them.
LUMINANCE = np.array([0.299, 0.587, 0.114])

_PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_EXIF_ORIENTATION = 0x0112
_AS_IT_LIES = 1
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
TIFF_BITS_PER_SAMPLE = 258
TIFF_PHOTOMETRIC = 262
TIFF_WHITE_IS_ZERO = 0
_JPEG_SCALES = (1, 2, 4, 8)
_STRIP_PIXELS = 2**20
_REASON_LENGTH = 160
# One very large image at a time is decoded, whatever the number of threads.
_large_images = threading.Lock()


class _PillowIsQuiet:
    """A context in which Pillow does not warn.

    Filters of warnings belong to the whole program, so that threads which each set and restored
    them would restore what others had set: the first that comes adds one, the last takes it away.
    Python's own functions for that would also forget which warnings were shown before.
    """

    _filter = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self):
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                warnings.filters.insert(0, self._filter)

    def __exit__(self, *exception):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                with contextlib.suppress(ValueError):  # where a test has put others in place
                    warnings.filters.remove(self._filter)


_pillow_is_quiet = _PillowIsQuiet()


def decode_image(
    encoded: bytes, channels: int = 3, name: str = "image", *, reduce: bool = False
) -> Pixels:
    """Decode the bytes of an image file: JPEG, PNG, BMP, GIF, WebP or TIFF.

    The image is turned upright by its EXIF orientation; of an animation or a TIFF of
    several pages the first is taken. Transparent parts are laid on white, as a viewer
    shows them, unless four channels are asked for. CMYK is read by the Adobe (inverted)
    convention and converted without a color profile. Samples of 16 bits keep their
    8 leading bits; float TIFF must lie in 0..1.

    Args:
        encoded: bytes, the content of the file.
        channels: int, 1 (luminance), 3 (RGB) or 4 (RGB and alpha).
        name: str, what to call the image in an error.
        reduce: bool, make an image of over 33 million pixels smaller while it is decoded, by
            2, 4 or 8 in each direction, which saves memory. Otherwise it keeps its size.

    Returns:
        uint8 array (height, width, channels).

    Raises:
        DMFormerError: the bytes are no such image, are damaged, or hold more than 134
            million pixels after that.

    Example:

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (5, 4), (255, 0, 0)).save(file, "PNG")
    >>> image = decode_image(file.getvalue())
    >>> image.shape, image[0, 0].tolist()
    ((4, 5, 3), [255, 0, 0])
    """
    return decode_turned(encoded, channels, name, reduce=reduce)[0]


def decode_turned(encoded, channels, name, *, reduce=False):
    """Decode an image file as `decode_image` does, and tell how it was turned upright; returns a
    uint8 array (height, width, channels), and the EXIF orientation: 1 where the image stood upright
    in the file, 2 to 8 where it was turned. See `turn_upright`.
    """
    check_file_channels(channels)
    with (
        stated_image_errors(name, encoded=encoded),
        open_image(encoded, reduce=reduce) as file,
        one_large_image(file),
    ):
        file.load()
        orientation = _orientation(file)
        image = _to_8_bits(file)
        if reduce and _pixels(image) > KEPT_PIXELS:
            image = _reduced(image)
        image = _upright(image, orientation)
        if image is not file:
            file.close()  # two of a very large one are too many
        return by_strips(image, functools.partial(_samples, channels=channels)), orientation


def open_image(encoded, formats=FORMATS, *, reduce=False):
    """Open an image file as `PIL.Image.open` does, with a limit on its pixels; returns
    PIL.Image.Image, whose pixels are not decoded yet.

    Pillow's own limit is a warning first, and belongs to the whole program.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    for name in formats:
        make, accepts = Image.OPEN[name]
        # A str from there says why such an image is not read, as a warning would.
        if accepts is not None and accepts(encoded[:16]) is not True:
            continue
        if name == "TIFF":
            _silence_libtiff()
        try:
            image = make(io.BytesIO(encoded), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
        _check_size(image, reduce)
        return image
    raise UnidentifiedImageError("no image of these formats")


def one_large_image(image):
    """A context in which no other thread decodes a very large image, if this is one: after it is
    made smaller or, in a progressive JPEG, before, for its decoder holds all of it.
    """
    pixels = _pixels(image)
    if "progressive" in image.info and getattr(image, "decoderconfig", None):
        pixels *= image.decoderconfig[0] ** 2
    return _large_images if pixels > KEPT_PIXELS else contextlib.nullcontext()


def _forget_other_threads():
    global _large_images, _pillow_is_quiet
    _large_images = threading.Lock()
    _pillow_is_quiet = _PillowIsQuiet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)


@functools.cache
def _silence_libtiff():
    """Keeps the library of TIFF files from writing to stderr itself what Pillow raises, too."""
    import ctypes

    from PIL import _imaging

    with contextlib.suppress(AttributeError, OSError):  # built into Pillow, or of another name
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def _check_size(image, reduce):
    width, height = image.size
    if reduce and image.format in ("JPEG", "MPO"):
        # Pillow does this once for an image.
        fitting = (scale for scale in _JPEG_SCALES if width * height <= KEPT_PIXELS * scale**2)
        scale = next(fitting, _JPEG_SCALES[-1])
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
    if _pixels(image) > PIXEL_LIMIT or width * height > 8 * PIXEL_LIMIT:
        image.close()
        raise ValueError(
            f"it is {width} x {height} pixels large, over the limit of {PIXEL_LIMIT:,} pixels"
        )


def _pixels(image):
    return image.size[0] * image.size[1]


def _reduced(image):
    """A smaller image of a very large one, in a mode whose samples have a mean."""
    if image.has_transparency_data:
        image = _converted(image, "RGBA")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    factor = 2
    while _pixels(image) > KEPT_PIXELS * factor**2:
        factor += 1
    return image.reduce(factor)


def by_strips(image, to_array):
    """Turn an image into an array strip by strip, so that what it takes on the way is small.

    `to_array` makes an array (height, width, ...) of a strip, which has the image's width. The
    image may be an array, too.
    """
    is_array = isinstance(image, np.ndarray)
    height, width = image.shape[:2] if is_array else image.size[::-1]
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return to_array(image)
    whole = None
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image[top:bottom] if is_array else image.crop((0, top, width, bottom))
        part = to_array(strip)
        if whole is None:
            whole = np.empty((height, *part.shape[1:]), part.dtype)
        whole[top:bottom] = part
    return whole


def _samples(image, channels):
    """The pixels of an image as an array (height, width, channels)."""
    width, height = image.size
    array = np.array(_to_mode(image, _PILLOW_MODES[channels]))
    return array.reshape(height, width, channels)


def turn_upright(mask, orientation):
    """Turn what lies on an image as the image itself was turned; returns a uint8 array, (width,
    height) for the orientations 5 to 8.
    """
    from PIL import Image

    return np.asarray(_upright(Image.fromarray(mask), orientation))


def check_image_header(encoded, name="image"):
    """Check that bytes begin like an image that `decode_image` reads, pixels unread."""
    with stated_image_errors(name, encoded=encoded):
        open_image(encoded, reduce=True).close()


def check_file_channels(channels):
    """Check that image files can be decoded to `channels` channels."""
    if channels not in _PILLOW_MODES:
        raise DMFormerError(
            f"Image files are decoded to 1 (luminance), 3 (RGB) or 4 (RGBA) channels, not "
            f"{channels!r}; give images of other channels as arrays: "
            "open_source((images, labels))."
        )


def load_image(
    path: PathLike,
    image_size: ImageSize | None = None,
    *,
    channels: int = 3,
    resize: str = "crop",
    crop_fraction: float = 1.0,
) -> Pixels:
    """Read one image file as evaluation reads it.

    Args:
        path: str or path of the file.
        image_size: int, or (height, width), in pixels; None keeps the image's own size.
        channels: int, 1 (luminance), 3 (RGB) or 4 (RGBA).
        resize: str, see `resize_image`.
        crop_fraction: float, see `resize_image`.

    Returns:
        uint8 array (height, width, channels).

    Raises:
        DMFormerError: there is no such file, or it is no image, or an argument is wrong.

    Example:

    >>> import os, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "grey.png")
    ...     Image.new("L", (300, 200), 128).save(path)
    ...     load_image(path, 64).shape
    (64, 64, 3)
    """
    if image_size is None:
        name = quoted(str(path), 120)
        return decode_image(_content(path, name), channels, name)
    return resize_image(load_reduced(path, channels), image_size, resize, crop_fraction)


def load_reduced(path, channels=3):
    """Read one image file as `load_image` does, a very large one at a smaller size."""
    name = quoted(str(path), 120)
    return decode_image(_content(path, name), channels, name, reduce=True)


def check_image_file(path, *, fully=False):
    """Check that a file begins like an image that `load_image` reads."""
    if fully:
        load_reduced(path)
    else:
        name = quoted(str(path), 120)
        check_image_header(_content(path, name), name)


def _content(path, name):
    try:
        return read_regular_file(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DMFormerError(
            f"Cannot read {name} ({reason}); give the path of an image file."
        ) from error


def resize_image(
    image: Pixels, image_size: ImageSize, resize: str = "crop", crop_fraction: float = 1.0
) -> Pixels:
    """Bring an image to a size, antialiased, by the geometry of evaluation.

    Args:
        image: uint8 array (height, width, channels).
        image_size: int, or (height, width), in pixels.
        resize: "crop" takes the largest centered part of the target's aspect ratio,
            "squash" takes the whole image whatever its ratio, "pad" fits the whole image
            in, its ratio kept, and fills the rest with 0 (black).
        crop_fraction: float in (0, 1], the part of that height and width that is kept,
            about the center; 1 with "pad".

    Returns:
        uint8 array (*image_size, channels).

    Raises:
        DMFormerError: an argument is wrong.

    Example:

    >>> wide = np.zeros((100, 300, 3), "uint8")
    >>> wide[:, :100] = 255
    >>> [int(resize_image(wide, 32, mode).mean()) for mode in ("crop", "squash", "pad")]
    [0, 85, 29]
    """
    return _resized(image, image_size, resize, crop_fraction, nearest=False, padding=0)


def resize_mask(mask, image_size, resize="crop", crop_fraction=1.0, *, padding):
    """Bring a mask to a size by the geometry of `resize_image`, every value kept as it is; returns
    a uint8 array (*image_size).

    Example:

    >>> mask = np.array([[1, 2], [1, 2]], "uint8")
    >>> resize_mask(mask, (4, 2), "pad", padding=255).tolist()
    [[255, 255], [1, 2], [1, 2], [255, 255]]
    """
    return _resized(mask, image_size, resize, crop_fraction, nearest=True, padding=padding)


def check_geometry(resize, crop_fraction):
    """Check the two arguments that say how evaluation brings an image to its size."""
    if resize not in RESIZE_MODES:
        raise DMFormerError(f"resize must be one of {', '.join(RESIZE_MODES)}, not {resize!r}.")
    if not 0 < crop_fraction <= 1:
        raise DMFormerError(f"crop_fraction must be over 0 and at most 1, not {crop_fraction!r}.")
    if resize == "pad" and crop_fraction != 1:
        raise DMFormerError(
            f"resize='pad' keeps the whole image: crop_fraction must be 1, not {crop_fraction!r}."
        )


def checked_size(image_size):
    """Read an image size given as one number or two; returns (height, width), two ints.

    Example:

    >>> checked_size(224), checked_size((96, 128))
    ((224, 224), (96, 128))
    """
    try:
        sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        height, width = (operator.index(side) for side in sides)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise DMFormerError(
            f"image_size must be a positive whole number of pixels or (height, width), "
            f"not {image_size!r}."
        )
    return height, width


def evaluation_box(image, height, width, resize, crop_fraction):
    """The part of an image that evaluation looks at: (left, top, right, bottom), in pixels."""
    image_height, image_width = image.shape[:2]
    box_height, box_width = image_height, image_width
    if resize == "crop":
        box_height = min(image_height, image_width * height / width)
        box_width = min(image_width, image_height * width / height)
    box_height, box_width = box_height * crop_fraction, box_width * crop_fraction
    top, left = (image_height - box_height) / 2, (image_width - box_width) / 2
    # Rounding may carry the far side a hair outside, which Pillow refuses.
    return left, top, min(left + box_width, image_width), min(top + box_height, image_height)


def resize_box(image, box, image_size, *, nearest=False):
    """Cut a box out of an image and bring it to a size in one step, antialiased; returns a uint8
    array (*image_size, channels), or (*image_size).
    """
    from PIL import Image

    height, width = image_size
    resampling = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return through_pillow(image, lambda band: band.resize((width, height), resampling, box=box))


def through_pillow(image, operation):
    """Apply an operation on Pillow images to an array of any number of channels; returns a uint8
    array (new height, new width, channels), or (new height, new width).

    RGB goes through at once. Anything else goes band by band: Pillow would take a fourth channel
    for transparency, and it knows no images of five.
    """
    from PIL import Image

    if image.ndim == 2 or image.shape[-1] == 3:
        return np.asarray(operation(Image.fromarray(image)))
    bands = np.moveaxis(image, -1, 0)
    return np.stack([np.asarray(operation(Image.fromarray(band))) for band in bands], axis=-1)


def _resized(image, image_size, resize, crop_fraction, *, nearest, padding):
    height, width = checked_size(image_size)
    check_geometry(resize, crop_fraction)
    if resize == "pad":
        return _fit_and_pad(image, height, width, nearest, padding)
    box = evaluation_box(image, height, width, resize, crop_fraction)
    return resize_box(image, box, (height, width), nearest=nearest)


def _fit_and_pad(image, height, width, nearest, padding):
    image_height, image_width = image.shape[:2]
    scale = min(height / image_height, width / image_width)
    fitted_height = max(1, min(height, round(image_height * scale)))
    fitted_width = max(1, min(width, round(image_width * scale)))
    whole = (0, 0, image_width, image_height)
    top, left = (height - fitted_height) // 2, (width - fitted_width) // 2
    padded = np.full((height, width, *image.shape[2:]), padding, np.uint8)
    padded[top : top + fitted_height, left : left + fitted_width] = resize_box(
        image, whole, (fitted_height, fitted_width), nearest=nearest
    )
    return padded


@contextlib.contextmanager
def stated_image_errors(name, formats=FORMATS, encoded=b""):
    """Turn whatever Pillow raises on bad bytes into one DMFormerError; returns a context manager.

    Its parsers raise OSError, SyntaxError, ValueError, struct.error, zlib.error, IndexError and
    more; on bytes from outside all of them mean the same. Their warnings, of
    metadata that no pixel depends on, are kept back.
    """
    from PIL import UnidentifiedImageError

    try:
        with _pillow_is_quiet:
            yield
    except (DMFormerError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")[:_REASON_LENGTH] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"not a {', '.join(formats[:-1])} or {formats[-1]} image"
            kind = unread_kind(encoded)
            if not encoded:
                reason = "the file is empty"
            elif kind is not None:
                raise DMFormerError(
                    f"Cannot decode {name}: it is {kind} whatever its name says, which is not "
                    "read; convert it to JPEG or PNG, or remove it."
                ) from error
        raise DMFormerError(f"Cannot decode {name}: {reason}; replace or remove it.") from error


def _orientation(image):
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # a broken EXIF block, as some cameras write, leaves the pixels as good
        return _AS_IT_LIES
    return orientation if orientation in _UPRIGHT else _AS_IT_LIES


def _upright(image, orientation):
    from PIL import Image

    if orientation not in _UPRIGHT:
        return image
    return image.transpose(Image.Transpose[_UPRIGHT[orientation]])


def _to_8_bits(image):
    """The image with samples of 8 bits; Pillow's own conversion would clip at 255."""
    from PIL import Image

    if image.mode == "F":
        return Image.fromarray(by_strips(image, _unit_floats_to_8_bits))
    # Pillow before 11 opens a 16-bit grey PNG as "I", later ones as "I;16".
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(TIFF_BITS_PER_SAMPLE, (16,))[0]
        samples = by_strips(image, lambda strip: _leading_bits(strip, bits))
        if tags and tags.get(TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO) == TIFF_WHITE_IS_ZERO:
            samples = 255 - samples
        return Image.fromarray(samples)
    if image.mode == "I":
        raise ValueError("signed or 32-bit integer samples have no fixed range, save 8 or 16 bits")
    return image


def _leading_bits(image, bits):
    return (np.asarray(image) >> (bits - 8)).astype(np.uint8)


def _unit_floats_to_8_bits(image):
    samples = np.asarray(image)
    if not (np.isfinite(samples).all() and samples.min() >= 0 and samples.max() <= 1):
        raise ValueError("float samples must lie in 0..1")
    return np.rint(samples * 255).astype(np.uint8)


def _to_mode(image, mode):
    from PIL import Image

    if image.has_transparency_data:
        image = _converted(image, "RGBA")
        if mode != "RGBA":
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    return _converted(image, mode)


def _converted(image, mode):
    return image if image.mode == mode else image.convert(mode)  # which would copy it
