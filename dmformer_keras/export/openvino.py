"""OpenVINO files from Keras models: the fastest of the CPU runtimes measured here."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from dmformer_keras.checks import check_positive_int
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export import processes, verification
from dmformer_keras.export.calibration import batches, calibration_images
from dmformer_keras.export.preparation import prepare
from dmformer_keras.export.quiet import quiet_stderr
from dmformer_keras.export.runners import OPENVINO_KEY
from dmformer_keras.type_names import Images, InputShape, PathLike

if TYPE_CHECKING:
    import keras


QUANTIZATIONS = (None, "int8")
PRECISIONS = ("float32", "bfloat16")


def to_openvino(
    model: keras.Model,
    path: PathLike,
    input_shape: InputShape | None = None,
    *,
    precision: str = "float32",
    quantization: str | None = None,
    representative_data: Images | None = None,
    fuse: bool = True,
    batch_size: int = 1,
    verify: bool = True,
    images: Images | None = None,
    tolerance: float | None = None,
) -> Path:
    """Converts a model to an OpenVINO file, and compares the file with the model.

    The conversion goes through TensorFlow's graph, in a process of its own under JAX and
    PyTorch. The file consists of `NAME.xml` and `NAME.bin`. The class names and what else
    a program must know are in its `model_info`, as JSON under `description`.

    Args:
        model: as in `to_tflite`.
        path: str or path ending in `.xml`. Replaced if present; its folder is made.
        input_shape: `(height, width, channels)`, for a model that takes any size.
        precision: "float32", or "bfloat16": in what the processor computes, where it has
            instructions for that. The file is the same but for a note, which
            `load_exported` follows; other programs set `INFERENCE_PRECISION_HINT`.
        quantization: None, or "int8": NNCF's post-training quantization of weights, with a
            scale for each channel, and activations. Needs the package nncf.
        representative_data: for `"int8"`, as in `to_tflite`.
        fuse: bool. Whether to fold every BatchNorm first, see `dmformer_keras.fuse`.
        batch_size: positive int, how many images the file takes at once.
        verify, images, tolerance: as in `to_tflite`.

    Returns:
        `pathlib.Path` of the `.xml` file. The report is `NAME.xml.report.json` beside it.

    Raises:
        DMFormerError: as `to_tflite`; TensorFlow, OpenVINO or, for int8, nncf is absent.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> path = to_openvino(model, "classifier.xml")  # doctest: +SKIP
    """
    path = verification.checked_path(path, ".xml", "an OpenVINO file")
    if precision not in PRECISIONS:
        names = " or ".join(repr(name) for name in PRECISIONS)
        raise DMFormerError(f"precision must be {names}, not {precision!r}.")
    _check_quantization(quantization, representative_data, precision)
    check_positive_int("batch_size", batch_size)
    prepared = prepare(model, input_shape, fuse)
    calibration = None
    if quantization == "int8":
        calibration = calibration_images(representative_data, prepared)
    check = verification.Check.from_arguments(
        path, prepared, verify, images, tolerance, quantization or precision, calibration
    )
    options = {
        "shape": prepared.shape,
        "quantization": quantization,
        "batch_size": int(batch_size),
        "description": {**prepared.description, "precision": precision},
    }
    with verification.written_if_right(path, check, prepared.bytes) as beside:
        processes.convert_under(
            "tensorflow", __name__, prepared.model, beside, options, {"images": calibration}
        )
    return path


def _check_quantization(quantization, representative_data, precision):
    if quantization not in QUANTIZATIONS:
        names = " or ".join(repr(name) for name in QUANTIZATIONS)
        raise DMFormerError(f"quantization must be {names}, not {quantization!r}.")
    if quantization is None and representative_data is not None:
        raise DMFormerError('representative_data is for quantization="int8"; leave it out.')
    if quantization == "int8" and precision != "float32":
        raise DMFormerError(
            f'quantization="int8" computes the rest in float32, not in {precision}; leave out one '
            "of the two."
        )
    if quantization == "int8" and importlib.util.find_spec("nncf") is None:
        raise DMFormerError(
            'quantization="int8" needs nncf, which is not installed: pip install nncf.'
        )


def _quantized(model, images, batch_size):
    """Returns an OpenVINO model in int8, by the ranges that it has on images."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    data = list(batches(images, batch_size))
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(model, nncf.Dataset(data), subset_size=len(data))


def _keep_outputs(converted, names):
    """Removes outputs that the TensorFlow function does not have.

    OpenVINO makes outputs of what nothing reads, as SiLU leaves its input behind for its gradient.
    """
    for result in converted.get_results():
        if not names & result.output(0).get_names():
            converted.remove_result(result)


def convert(model, path, arrays, *, shape, quantization, batch_size, description):
    """Converts under the TensorFlow backend; `to_openvino` is the checked way in."""
    try:
        import openvino
    except ImportError as error:
        raise DMFormerError("OpenVINO is not installed: pip install openvino.") from error
    import tensorflow as tf

    signature = tf.TensorSpec((batch_size, *shape), tf.float32, name="images")
    try:
        with quiet_stderr():
            function = tf.function(
                lambda images: model(images, training=False), input_signature=[signature]
            )
            concrete = function.get_concrete_function()
            converted = openvino.convert_model(concrete)
            _keep_outputs(converted, {tensor.name for tensor in concrete.outputs})
            if quantization == "int8":
                converted = _quantized(converted, arrays["images"], batch_size)
            converted.set_rt_info(json.dumps(description), ["model_info", OPENVINO_KEY])
            openvino.save_model(converted, str(path), compress_to_fp16=False)
    except (RuntimeError, ValueError, TypeError, tf.errors.OpError) as error:
        raise DMFormerError(
            f"OpenVINO cannot convert {model.name!r} ({shortened(error)}); export a model of "
            "layers that it supports."
        ) from error
