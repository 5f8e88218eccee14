"""TFLite (LiteRT) files from Keras models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import keras

from dmformer_keras.checks import check_bool, check_positive_int
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export import litert, processes, tf_lite, verification
from dmformer_keras.export.calibration import batches, calibration_images
from dmformer_keras.export.preparation import prepare
from dmformer_keras.export.quiet import quiet_stderr
from dmformer_keras.export.sigmoid_gelu import with_sigmoid_gelu
from dmformer_keras.export.tflite_file import schema
from dmformer_keras.export.tflite_metadata import write_complete
from dmformer_keras.layers.backend_paths import for_tflite
from dmformer_keras.type_names import Images, InputShape, PathLike

if TYPE_CHECKING:
    import keras


QUANTIZATIONS = (None, "float16", "dynamic", "int8")
# {converter: the backend that it runs under, and the module with its `convert`}
CONVERTERS = {"tensorflow": ("tensorflow", __name__), "litert": ("torch", litert.__name__)}


def to_tflite(
    model: keras.Model,
    path: PathLike,
    quantization: str | None = None,
    representative_data: Images | None = None,
    input_shape: InputShape | None = None,
    *,
    fuse: bool = True,
    batch_size: int = 1,
    resizable: bool = False,
    int8_io: bool = False,
    sigmoid_gelu: bool = True,
    converter: str = "tensorflow",
    verify: bool = True,
    images: Images | None = None,
    tolerance: float | None = None,
) -> Path:
    """Converts a model to a TFLite file, and compares the file with the model.

    Only built-in operators are used, and every dilated depthwise convolution is one of
    them. TensorFlow does the conversion, or PyTorch with `converter="litert"`: where that is
    not the backend, the model is handed to a process of its own, so it must be installed
    but need not be the backend. The class names and what else a program must know travel
    inside: as TFLite metadata, and as `labels.txt` and `model.json` in the zip archive that
    the file is, too.

    Args:
        model: a `keras.Model` with one image input and one output: a classifier, a
            segmenter, a backbone, a task model of KerasCV or KerasHub that holds one, or
            what `dmformer_keras.fuse` made of any. It is not changed.
        path: str or path ending in `.tflite`. Replaced if present; its folder is made.
        quantization: `None` (float32), `"float16"` (weights stored in half precision),
            `"dynamic"` (weights in int8, activations quantized as they come) or
            `"int8"` (weights, a scale for each channel, and activations in int8).
        representative_data: for `"int8"`: the images by which the ranges of the
            activations are measured. What `dmformer_keras.data.open_source` takes or
            returns, of which up to 100 training images are read; or an array `(count,
            height, width, channels)` or iterable of images, as the model takes them.
        input_shape: `(height, width, channels)`, for a model that takes any size.
        fuse: bool. Whether to fold every BatchNorm first, see `dmformer_keras.fuse`.
        batch_size: positive int, how many images the file takes at once.
        resizable: bool. Leaves height and width open, for a model that takes any size:
            the program calls `resize_tensor_input` before `allocate_tensors`. Not for
            MediaPipe, which shows such a file images of a size of its own.
        int8_io: bool, for `"int8"`: input and output in int8 with their scale and zero
            point, rather than float32. Images are then uint8 values minus 128. MediaPipe
            refuses such files.
        sigmoid_gelu: bool, for `"int8"`: whether the GELU of fused blocks is
            `x * sigmoid(1.702 x)`, which is within 0.021 of it, and which XNNPACK computes
            in int8. It has no int8 GELU: the exact one takes a tenth of the time more.
        converter: `"tensorflow"`, or `"litert"` for litert-torch and ai-edge-quantizer, the
            successors of TensorFlow's converter: no `"float16"` and no `resizable`.
        verify: bool. Whether to run the file beside Keras, see
            `compare_exported`, and to write the report beside it.
        images: images to verify with, like `representative_data` (of a source the
            validation images). By default the first of `representative_data`, else
            made-up ones.
        tolerance: positive float, the most that `relative_error` of `compare_exported` may
            be; by default 0.001 in float32, 0.25 in int8.

    Returns:
        `pathlib.Path` of the file. The report is `NAME.tflite.report.json` beside it.

    Raises:
        DMFormerError: if an argument is invalid, the converter is absent, the path cannot
            be written, the conversion fails, or the file's outputs differ by more than
            `tolerance`. No file is left behind then.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> path = to_tflite(model, "classifier.tflite")  # doctest: +SKIP
    """
    path = verification.checked_path(path, ".tflite", "a TFLite file")
    if quantization not in QUANTIZATIONS:
        names = ", ".join(repr(name) for name in QUANTIZATIONS)
        raise DMFormerError(f"quantization must be one of {names}, not {quantization!r}.")
    check_bool("resizable", resizable)
    check_bool("int8_io", int8_io)
    check_bool("sigmoid_gelu", sigmoid_gelu)
    if int8_io and quantization != "int8":
        raise DMFormerError('int8_io is for quantization="int8"; leave it out.')
    check_positive_int("batch_size", batch_size)
    _check_converter(converter, quantization, resizable)
    schema()  # every file needs it
    prepared = prepare(model, input_shape, fuse, resizable)
    calibration = None
    if quantization == "int8":
        calibration = calibration_images(representative_data, prepared)
    check = verification.Check.from_arguments(
        path, prepared, verify, images, tolerance, quantization, calibration
    )
    options = {
        "shape": prepared.shape,
        "quantization": quantization,
        "batch_size": int(batch_size),
        "int8_io": int8_io,
        "sigmoid_gelu": sigmoid_gelu and quantization == "int8",
        "description": prepared.description,
    }
    with verification.written_if_right(path, check, prepared.bytes) as beside:
        processes.convert_under(
            *CONVERTERS[converter], prepared.model, beside, options, {"images": calibration}
        )
    return path


def _check_converter(converter, quantization, resizable):
    if converter not in CONVERTERS:
        names = " or ".join(repr(name) for name in CONVERTERS)
        raise DMFormerError(f"converter must be {names}, not {converter!r}.")
    if converter == "tensorflow":
        return
    if quantization == "float16" or resizable:
        what = "resizable=True" if resizable else 'quantization="float16"'
        raise DMFormerError(f'{what} is for converter="tensorflow"; leave one of them out.')
    litert.check_converter()


def convert(
    model, path, arrays, *, shape, quantization, batch_size, int8_io, sigmoid_gelu, description
):
    """Converts under the TensorFlow backend; `to_tflite` is the checked way in."""
    import tensorflow as tf

    # Looked up first, so that a missing name is reported.
    converter_error = tf_lite.ConverterError
    if sigmoid_gelu:
        model = with_sigmoid_gelu(model)
    module = tf.Module()
    # The converter would silently leave weights empty that it does not find here.
    module.weights = [variable.value for variable in model.variables]
    signature = tf.TensorSpec((batch_size, *shape), tf.float32, name="images")
    function = tf.function(lambda images: model(images, training=False))
    try:
        with quiet_stderr():
            with for_tflite():
                concrete = function.get_concrete_function(signature)
            converter = tf_lite.Converter.from_concrete_functions([concrete], module)
            _quantize(converter, quantization, arrays.get("images"), batch_size, int8_io)
            content = bytes(converter.convert())
    except (tf.errors.OpError, RuntimeError, ValueError, TypeError, converter_error) as error:
        raise DMFormerError(
            f"TensorFlow cannot convert {model.name!r} to TFLite ({shortened(error)}); export a "
            "model of layers that it supports."
        ) from error
    write_complete(path, content, description, quantization)


def _quantize(converter, quantization, images, batch_size, int8_io):
    """Tells TensorFlow's converter what `quantization` means."""
    import tensorflow as tf

    # Nothing but built-in operators, which every program that runs TFLite has.
    converter.target_spec.supported_ops = [tf_lite.OperatorSets.TFLITE_BUILTINS]
    if quantization is not None:
        converter.optimizations = [tf_lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.target_spec.supported_ops = [tf_lite.OperatorSets.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            [batch] for batch in batches(images, batch_size)
        )
        if int8_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8
