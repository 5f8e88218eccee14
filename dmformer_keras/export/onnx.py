"""ONNX files from Keras models, by PyTorch's exporter."""

import json
import re

import keras
import numpy as np

from dmformer_keras.checks import check_positive_int, is_positive_int
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export import processes, verification
from dmformer_keras.export.exported_model import DESCRIPTION_FILE
from dmformer_keras.export.preparation import prepare
from dmformer_keras.layers.backend_paths import for_onnx

OPSET = 18


def to_onnx(
    model,
    path,
    input_shape=None,
    *,
    fuse=True,
    batch_size=None,
    opset=OPSET,
    verify=True,
    images=None,
    tolerance=None,
):
    """Converts a model to an ONNX file, and compares the file with the model.

    PyTorch does the conversion, in a process of its own under TensorFlow and JAX: Keras's
    way from TensorFlow's graph loses the dilation of depthwise convolutions. The input is
    called `images`, the output `outputs`. The class names and what else a program must
    know are in the file's metadata, as JSON under the key `model.json`.

    Args:
        model: as in `to_tflite`.
        path: str or path ending in `.onnx`. Replaced if present; its folder is made.
        input_shape: `(height, width, channels)`, for a model that takes any size.
        fuse: bool. Whether to fold every BatchNorm first, see `dmformer_keras.fuse`.
        batch_size: positive int, or None for any number of images at once.
        opset: int, at least 18, the version of ONNX's operators.
        verify, images, tolerance: as in `to_tflite`.

    Returns:
        `pathlib.Path` of the file. The report is `NAME.onnx.report.json` beside it.

    Raises:
        DMFormerError: as `to_tflite`; PyTorch or onnxscript is absent.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> path = to_onnx(model, "classifier.onnx")  # doctest: +SKIP
    """
    path = verification.checked_path(path, ".onnx", "an ONNX file")
    if batch_size is not None:
        check_positive_int("batch_size", batch_size)
    if not is_positive_int(opset) or opset < OPSET:
        raise DMFormerError(f"opset must be a whole number from {OPSET}, not {opset!r}.")
    prepared = prepare(model, input_shape, fuse)
    check = verification.Check.planned(path, prepared, verify, images, tolerance, None)
    options = {
        "shape": prepared.shape,
        "batch_size": batch_size,
        "opset": int(opset),
        "description": prepared.description,
    }
    with verification.verified(path, check) as beside:
        processes.convert_under("torch", __name__, prepared.model, beside, options)
    return path


def convert(model, path, arrays, *, shape, batch_size, opset, description):
    """Converts under the PyTorch backend; `to_onnx` is the checked way in.

    Args:
        model: `keras.Model`, prepared.
        path: str or path to write.
        arrays: dict, not used.
        shape: (height, width, channels).
        batch_size: int or None.
        opset: int.
        description: dict, what travels with the file.

    Raises:
        DMFormerError: PyTorch cannot convert the model.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx asks for it late, and less clearly
    except ImportError as error:
        raise DMFormerError(
            "ONNX conversion needs onnx and onnxscript: pip install onnx onnxscript."
        ) from error
    import torch

    # Two images, for a batch of one would be taken for a constant.
    sample = torch.from_numpy(np.zeros((batch_size or 2, *shape), np.float32))
    dynamic = None if batch_size else ({0: torch.export.Dim("batch")},)
    try:
        with keras.device("cpu"), torch.no_grad(), for_onnx():
            torch.onnx.export(
                _AsModule(model).eval(),
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
        # PyTorch says what failed in the cause, behind pages of advice in colours.
        cause = re.sub(r"\x1b\[\d*m", "", str(error.__cause__ or error))
        raise DMFormerError(
            f"PyTorch cannot convert {model.name!r} to ONNX: {shortened(cause)}"
        ) from error
    converted = onnx.load(str(path))
    onnx.helper.set_model_props(converted, {DESCRIPTION_FILE: json.dumps(description)})
    onnx.checker.check_model(converted, full_check=True)
    onnx.save(converted, str(path))


def _AsModule(model):  # noqa: N802
    import torch

    class AsModule(torch.nn.Module):
        """The model at inference, whatever Keras takes the mode from."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images, training=False)

    return AsModule()
