"""TFLite files by LiteRT's converter of PyTorch's graphs, beside TensorFlow's own."""

import contextlib
import importlib
import io
import logging
import warnings
from pathlib import Path

import keras

from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export.calibration import batches
from dmformer_keras.export.pytorch_module import as_module
from dmformer_keras.export.quiet import LOG, quiet_stderr
from dmformer_keras.export.sigmoid_gelu import with_sigmoid_gelu
from dmformer_keras.export.tflite_metadata import write_complete
from dmformer_keras.layers.backend_paths import for_tflite

_SIGNATURE = "serving_default"  # litert-torch's name of a module's only function


def check_converter():
    """Raises where the converter is not installed."""
    _imported("litert_torch")


def convert(
    model, path, arrays, *, shape, quantization, batch_size, int8_io, sigmoid_gelu, description
):
    """Converts under the PyTorch backend; `to_tflite` is the checked way in."""
    import torch

    litert_torch = _imported("litert_torch")
    if sigmoid_gelu:
        model = with_sigmoid_gelu(model)
    sample = torch.zeros((batch_size, *shape))
    path = Path(path)
    with _quietly():
        try:
            with keras.device("cpu"), torch.no_grad(), for_tflite(), _squares_as_products():
                converted = litert_torch.convert(as_module(model), sample_kwargs={"images": sample})
            converted.export(str(path))
            if quantization is not None:
                _quantize(path, quantization, arrays.get("images"), batch_size, int8_io)
        except OSError:  # the export reports a full disk
            raise
        except Exception as error:  # errors of many kinds
            raise DMFormerError(
                f"LiteRT cannot convert {model.name!r} ({shortened(error)}); leave out "
                'converter="litert".'
            ) from error
    write_complete(path, path.read_bytes(), description, quantization)


def _squares_as_products():
    """In this context PyTorch multiplies where it would square, on which the converter fails."""
    import torch

    class SquaresAsProducts(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.square:
                return args[0] * args[0]
            return function(*args, **(kwargs or {}))

    return SquaresAsProducts()


def _quantize(path, quantization, images, batch_size, int8_io):
    """Quantizes a float32 file in its place."""
    from ai_edge_quantizer import quantizer, recipe

    rules = recipe.static_wi8_ai8() if quantization == "int8" else recipe.dynamic_wi8_afp32()
    if quantization == "int8" and not int8_io:
        kept = {**rules[0], "algorithm_key": recipe.AlgorithmName.NO_QUANTIZE}
        rules += [{**kept, "operation": end} for end in ("INPUT", "OUTPUT")]
    work = quantizer.Quantizer(str(path), rules)
    ranges = None
    if quantization == "int8":
        LOG.info("Measuring ranges on %d images", len(images))
        shown = [{"images": batch} for batch in batches(images, batch_size)]
        ranges = work.calibrate({_SIGNATURE: shown})
    work.quantize(ranges).export_model(str(path), overwrite=True)


@contextlib.contextmanager
def _quietly():
    """Hides the progress and the advice of both libraries."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)


def _imported(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DMFormerError(
            'converter="litert" needs litert-torch: pip install "dmformer-keras[litert]".'
        ) from error
