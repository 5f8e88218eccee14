"""TensorFlow SavedModels that take encoded images, for TensorFlow Serving and the like."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export import processes, verification
from dmformer_keras.export.exported_model import side_files
from dmformer_keras.export.preparation import prepare
from dmformer_keras.export.quiet import quiet_stderr
from dmformer_keras.type_names import Images, InputShape, PathLike

if TYPE_CHECKING:
    import keras


# What TensorFlow decodes files to; images of other channels come as arrays only.
_CHANNELS_OF_FILES = (1, 3, 4)
_PNG = b"\x89PNG"
_PNG_BIT_DEPTH = 24  # where the header of a PNG holds it
_GIF = b"GIF8"
_GIF_EXTENSION = b"\x21\xf9\x04"  # what comes before the flags of a picture


def to_saved_model(
    model: keras.Model,
    path: PathLike,
    input_shape: InputShape | None = None,
    *,
    fuse: bool = True,
    verify: bool = True,
    images: Images | None = None,
    tolerance: float | None = None,
) -> Path:
    """Converts a model to a SavedModel, and compares it with the model.

    It has two signatures. `serving_default` takes `encoded`, strings of JPEG or PNG
    files, `(batch,)`; it takes the largest centered part of each that has the
    model's aspect ratio, and resizes it. `images` takes float images `(batch, height,
    width, channels)`, as the model takes them. `serving_default` of a classifier gives
    `probabilities`, `class` (the likeliest) and, with class names, `name`; of a segmenter
    `classes`, the likeliest of each pixel; of a backbone `outputs`, as `images` always
    does. Transparent parts of a PNG lie on white, as in `predict`; a GIF that has such is
    refused. Files are not turned as their EXIF orientation says. For images of other than 1,
    3 or 4 channels `serving_default` is `images`. `labels.txt` and `model.json` are in the
    folder `assets`.

    The conversion needs TensorFlow, in a process of its own under JAX and PyTorch.

    Args:
        model: as in `to_tflite`.
        path: str or path of the folder, without a suffix. Replaced if present.
        input_shape: `(height, width, channels)`, for a model that takes any size.
        fuse: bool. Whether to fold every BatchNorm first, see `dmformer_keras.fuse`.
        verify, images, tolerance: as in `to_tflite`.

    Returns:
        `pathlib.Path` of the folder. The report is `NAME.report.json` beside it.

    Raises:
        DMFormerError: as `to_tflite`.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> path = to_saved_model(model, "classifier")  # doctest: +SKIP
    """
    path = verification.checked_path(path, "", "a SavedModel")
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").is_file():
        raise DMFormerError(
            f"The folder {path} holds something else than a SavedModel; choose another path."
        )
    prepared = prepare(model, input_shape, fuse)
    check = verification.Check.from_arguments(path, prepared, verify, images, tolerance, None)
    options = {"shape": prepared.shape, "description": prepared.description}
    with verification.written_if_right(path, check, prepared.bytes) as beside:
        processes.convert_under("tensorflow", __name__, prepared.model, beside, options)
    return path


def convert(model, path, arrays, *, shape, description):
    """Converts under the TensorFlow backend; `to_saved_model` is the checked way in."""
    import tensorflow as tf

    module = tf.Module()
    module.model = model  # holds the variables
    with tempfile.TemporaryDirectory() as folder:
        module.assets = []
        for name, text in side_files(description).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
            module.assets.append(tf.saved_model.Asset(str(Path(folder) / name)))

        @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.float32, name="images")])
        def images(images):
            return {"outputs": model(images, training=False)}

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="encoded")])
        def encoded(encoded):
            pixels = tf.map_fn(
                lambda file: _decoded(file, shape),
                encoded,
                fn_output_signature=tf.TensorSpec(shape, tf.float32),
            )
            values = description["input"]
            outputs = model((pixels - values["mean"]) / values["std"], training=False)
            return _served(outputs, description)

        from_files = shape[2] in _CHANNELS_OF_FILES
        signatures = {"serving_default": encoded if from_files else images, "images": images}
        try:
            with quiet_stderr():
                tf.saved_model.save(module, str(path), signatures)
        except (tf.errors.OpError, RuntimeError, ValueError, TypeError) as error:
            raise DMFormerError(
                f"TensorFlow cannot write {model.name!r} as a SavedModel ({shortened(error)}); "
                "export a model of layers that it supports."
            ) from error


def _decoded(file, shape):
    """Decodes an image to the size of the model, by the geometry of `resize_image`."""
    import tensorflow as tf

    height, width, channels = shape
    image = _pixels(file, channels)
    image.set_shape((None, None, channels))
    found = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.minimum(found[0] / height, found[1] / width)
    part = tf.cast(tf.round(scale * tf.constant([height, width], tf.float32)), tf.int32)
    part = tf.clip_by_value(part, 1, tf.shape(image)[:2])
    first = (tf.shape(image)[:2] - part) // 2
    image = image[first[0] : first[0] + part[0], first[1] : first[1] + part[1]]
    resized = tf.image.resize(image, (height, width), antialias=True)
    return tf.round(tf.clip_by_value(resized, 0.0, 255.0))


def _pixels(file, channels):
    """Decodes a file; transparent parts of a PNG lie on white, as `decode_image` lays them."""
    import tensorflow as tf

    def of_png():
        image = tf.cast(_png_with_alpha(file), tf.int32)
        if channels == 4:
            return tf.cast(image, tf.uint8)
        color, alpha = image[..., :3], image[..., 3:]
        color = (color * alpha + 255 * (255 - alpha) + 127) // 255
        if channels == 1:  # Pillow's luminance
            color = tf.reduce_sum(color * [19595, 38470, 7471], axis=-1, keepdims=True)
            color = (color + 32768) // 65536
        return tf.cast(color, tf.uint8)

    def of_others():
        told = "A GIF with transparent parts is not read; send it as PNG."
        with tf.control_dependencies([tf.debugging.Assert(~_is_transparent_gif(file), [told])]):
            return tf.io.decode_image(file, channels=channels, expand_animations=False)

    return tf.cond(_begins(file, _PNG), of_png, of_others)


def _png_with_alpha(file):
    """Decodes a PNG to RGBA.

    Where a file of 1, 2 or 4 bits per sample has no transparency, TensorFlow fills alpha with the
    largest sample of these bits, 1, 3 or 15, which would be almost transparent.
    """
    import tensorflow as tf

    image = tf.io.decode_png(file, channels=4)
    bits = tf.io.decode_raw(tf.strings.substr(file, _PNG_BIT_DEPTH, 1), tf.uint8)[0]
    filled = tf.bitwise.left_shift(1, tf.minimum(tf.cast(bits, tf.int32), 8)) - 1
    color, alpha = image[..., :3], image[..., 3:]
    is_filled = tf.reduce_all(tf.cast(alpha, tf.int32) == filled)
    return tf.concat([color, tf.where(is_filled, tf.constant(255, tf.uint8), alpha)], axis=-1)


def _is_transparent_gif(file):
    """Whether the first picture of a GIF has a transparent color, which TensorFlow leaves out."""
    import tensorflow as tf

    parts = tf.strings.split(file, _GIF_EXTENSION, maxsplit=1)
    flags = tf.io.decode_raw(tf.strings.substr(parts[-1:], 0, 1), tf.uint8)
    has_flags = tf.shape(parts)[0] == 2
    return _begins(file, _GIF) & has_flags & (tf.reduce_max(flags) % 2 == 1)


def _begins(file, start):
    import tensorflow as tf

    return tf.strings.substr(file, 0, len(start)) == start


def _served(outputs, description):
    """Names what comes out of the model."""
    import tensorflow as tf

    if description["task"] == "segment":
        return {"classes": tf.argmax(outputs, axis=-1, output_type=tf.int32)}
    if description["task"] == "features":
        return {"outputs": outputs}
    linear = description["output"]["activation"] == "linear"
    if "threshold" in description["output"]:  # one output, of two classes
        outputs = tf.nn.sigmoid(outputs) if linear else outputs
        probabilities = tf.concat([1 - outputs, outputs], axis=-1)
    else:
        probabilities = tf.nn.softmax(outputs) if linear else outputs
    served = {
        "probabilities": probabilities,
        "class": tf.argmax(probabilities, axis=-1, output_type=tf.int32),
    }
    if description["class_names"]:
        served["name"] = tf.gather(tf.constant(description["class_names"]), served["class"])
    return served
