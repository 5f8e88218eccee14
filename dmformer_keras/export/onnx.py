"""ONNX files from Keras models: written here for fused models, else by PyTorch's exporter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from dmformer_keras.checks import check_positive_int, is_positive_int
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export import onnx_graph, onnx_int8, processes, verification
from dmformer_keras.export.calibration import calibration_images
from dmformer_keras.export.onnx_graph import GELU_OPSET
from dmformer_keras.export.preparation import prepare
from dmformer_keras.export.pytorch_module import as_module
from dmformer_keras.export.quiet import LOG
from dmformer_keras.export.runners import CHANNELS_FIRST_LAYOUT, DESCRIPTION_FILE
from dmformer_keras.fusing import FusedModel
from dmformer_keras.layers.backend_paths import for_onnx
from dmformer_keras.type_names import Images, InputShape, PathLike

if TYPE_CHECKING:
    import keras


OPSET = 18
QUANTIZATIONS = (None, "int8")
DATA_FORMATS = ("channels_last", "channels_first")


def to_onnx(
    model: keras.Model,
    path: PathLike,
    input_shape: InputShape | None = None,
    *,
    quantization: str | None = None,
    representative_data: Images | None = None,
    fuse: bool = True,
    batch_size: int | None = None,
    opset: int | None = None,
    data_format: str = "channels_last",
    verify: bool = True,
    images: Images | None = None,
    tolerance: float | None = None,
) -> Path:
    """Converts a model to an ONNX file, and compares the file with the model.

    A fused model of this package's layers is written directly, in seconds, in the operators
    that ONNX Runtime computes fastest. Any other (`fuse=False`, tasks of KerasHub with layers
    of their own) is converted by PyTorch, in a process of its own under TensorFlow and JAX.
    The input is called `images`, the output `outputs`. The class names and what else a
    program must know are in the file's metadata, as JSON under the key `model.json`.

    Args:
        model: as in `to_tflite`.
        path: str or path ending in `.onnx`. Replaced if present; its folder is made.
        input_shape: `(height, width, channels)`, for a model that takes any size.
        quantization: None (float32), or "int8": ONNX Runtime's static quantizer, weights with
            a scale for each channel, activations in 8 bits. Weights keep one bit back, for
            processors without VNNI would let sums of full ones overflow.
        representative_data: for `"int8"`, as in `to_tflite`.
        fuse: bool. Whether to fold every BatchNorm first, see `dmformer_keras.fuse`.
        batch_size: positive int, or None for any number of images at once.
        opset: int, at least 18, the version of ONNX's operators; None for 18, or in int8
            for 20, the first with GELU in one piece.
        data_format: "channels_last" for images `(batch, height, width, channels)`, or
            "channels_first" for `(batch, channels, height, width)`; an output map has the
            same order. `load_exported` takes and returns channels_last either way.
        verify, images, tolerance: as in `to_tflite`.

    Returns:
        `pathlib.Path` of the file. The report is `NAME.onnx.report.json` beside it.

    Raises:
        DMFormerError: as `to_tflite`; onnx is absent, or PyTorch or onnxscript where they convert.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> path = to_onnx(model, "classifier.onnx")  # doctest: +SKIP
    """
    path = verification.checked_path(path, ".onnx", "an ONNX file")
    if batch_size is not None:
        check_positive_int("batch_size", batch_size)
    if quantization not in QUANTIZATIONS:
        names = " or ".join(repr(name) for name in QUANTIZATIONS)
        raise DMFormerError(f"quantization must be {names}, not {quantization!r}.")
    if quantization is None and representative_data is not None:
        raise DMFormerError('representative_data is for quantization="int8"; leave it out.')
    if opset is None:
        opset = OPSET if quantization is None else GELU_OPSET
    if not is_positive_int(opset) or opset < OPSET:
        raise DMFormerError(f"opset must be a whole number from {OPSET}, not {opset!r}.")
    if data_format not in DATA_FORMATS:
        names = " or ".join(repr(name) for name in DATA_FORMATS)
        raise DMFormerError(f"data_format must be {names}, not {data_format!r}.")
    prepared = prepare(model, input_shape, fuse)
    calibration = None
    if quantization == "int8":
        onnx_int8.check_quantizer()
        calibration = calibration_images(representative_data, prepared)
    check = verification.Check.from_arguments(
        path, prepared, verify, images, tolerance, quantization, calibration
    )
    options = {
        "shape": prepared.shape,
        "batch_size": batch_size,
        "opset": int(opset),
        "data_format": data_format,
    }
    description = _description(prepared.description, data_format)
    with verification.written_if_right(path, check, prepared.bytes) as beside:
        if not _write(prepared.model, beside, options):
            processes.convert_under("torch", __name__, prepared.model, beside, options)
        if quantization == "int8":
            onnx_int8.quantize(beside, calibration, batch_size, data_format)
        _complete(beside, description)
    return path


def _description(description, data_format):
    """Returns the description with the layout that the file takes."""
    if data_format == "channels_last":
        return description
    height, width, channels = description["input"]["shape"]
    layout = {"shape": [channels, height, width], "layout": CHANNELS_FIRST_LAYOUT}
    return {**description, "input": {**description["input"], **layout}}


def _write(model, path, options):
    """Writes a model layer by layer; tells whether all its layers are known."""
    if not isinstance(model, FusedModel):
        return False
    onnx = _imported_onnx()
    try:
        proto = onnx_graph.model_proto(model, **options)
    except onnx_graph.UnknownLayerError as error:
        LOG.info("PyTorch converts it, for its layer %s is not one of DMFormer's", error)
        return False
    LOG.info("Writing %d operators", len(proto.graph.node))
    onnx.save(proto, str(path))
    return True


def _complete(path, description):
    """Puts the description into a file and checks it by ONNX's rules."""
    onnx = _imported_onnx()
    proto = onnx.load(str(path))
    onnx.helper.set_model_props(proto, {DESCRIPTION_FILE: json.dumps(description)})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))


def _imported_onnx():
    try:
        import onnx
    except ImportError as error:
        raise DMFormerError("ONNX conversion needs onnx: pip install onnx.") from error
    return onnx


def convert(model, path, arrays, *, shape, batch_size, opset, data_format):
    """Converts under the PyTorch backend; `to_onnx` is the checked way in."""
    try:
        import onnxscript  # noqa: F401  torch.onnx asks for it late, and less clearly
    except ImportError as error:
        raise DMFormerError(
            f"The conversion of {model.name!r} to ONNX needs onnxscript: pip install onnxscript."
        ) from error
    import torch

    height, width, channels = shape
    channels_first = data_format == "channels_first"
    sides = (channels, height, width) if channels_first else shape
    # Two images, for a batch of one would be taken for a constant.
    sample = torch.zeros((batch_size or 2, *sides))
    dynamic = None if batch_size else ({0: torch.export.Dim("batch")},)
    try:
        with keras.device("cpu"), torch.no_grad(), for_onnx():
            torch.onnx.export(
                as_module(model, channels_first),
                (sample,),
                str(path),
                input_names=["images"],
                output_names=["outputs"],
                opset_version=opset,
                dynamic_shapes=dynamic,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # of many kinds, and none of PyTorch's own base
        # PyTorch says what failed in the cause, behind pages of advice in colors.
        cause = re.sub(r"\x1b\[\d*m", "", str(error.__cause__ or error))
        raise DMFormerError(
            f"PyTorch cannot convert {model.name!r} to ONNX ({shortened(cause)}); export a model "
            "of layers that it supports."
        ) from error
