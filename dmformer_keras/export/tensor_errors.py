"""Where a quantized file loses its accuracy: its layers beside those of the float32 file."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmformer_keras.errors import DMFormerError
from dmformer_keras.export.exported_model import load_exported
from dmformer_keras.export.runners import dequantized, quantized
from dmformer_keras.type_names import PathLike


@dataclasses.dataclass(frozen=True)
class LayerError:
    """How far one output of a quantized file lies from that of the float32 file.

    Args:
        name: str, the tensor's name, which holds those of the Keras layers around it.
        operator: str, what computes it, such as "CONV_2D".
        relative_error: float, the root mean square of the differences over the standard
            deviation of the float32 values, of all channels together.
        channel_error: float, the same of each channel by itself, the median of them: where
            it is far above `relative_error`, a few large channels leave the others no steps.
    """

    name: str
    operator: str
    relative_error: float
    channel_error: float


def layer_errors(reference: PathLike, path: PathLike, images: ArrayLike) -> list[LayerError]:
    """Compares a quantized TFLite file with a float32 one of the same model, layer by layer.

    Errors add up on their way through the network: look for the first great step.

    Args:
        reference: str or path of the float32 `.tflite` file.
        path: str or path of the quantized one, of the same model, form and size.
        images: array `(count, height, width, channels)`, as the model takes them.

    Returns:
        list of LayerError, in the order of computation, of the outputs that both files
        have under the same name.

    Raises:
        DMFormerError: a file is none, or they have nothing in common.

    Example:

    >>> errors = layer_errors("float.tflite", "int8.tflite", images)  # doctest: +SKIP
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or not len(images):
        raise DMFormerError(
            f"images must be an array (count, height, width, channels) of one or more, not of "
            f"shape {images.shape}."
        )
    sums: dict[str, Any] = {}
    files = [_Layers(file, images) for file in (reference, path)]
    for image in images:
        expected, found = (file.outputs(image) for file in files)
        for name in expected.keys() & found.keys():
            if expected[name].shape != found[name].shape:
                continue
            values = expected[name].astype(np.float64)
            parts = ((found[name] - values) ** 2, values, values**2)
            channels = [part.reshape(-1, part.shape[-1]).mean(axis=0) for part in parts]
            sums[name] = sums.get(name, 0) + np.stack(channels) / len(images)
    if not sums:
        raise DMFormerError(
            f"{path} has no layer in common with {reference}; convert both from the same model "
            "with the same arguments but for the quantization."
        )
    return [
        LayerError(
            name,
            operator,
            float(_relative_errors(sums[name].mean(axis=1))),
            float(np.median(_relative_errors(sums[name]))),
        )
        for name, operator in files[1].operators.items()
        if name in sums
    ]


def _relative_errors(means):
    """Returns errors over deviations, from the means of squared errors, values and squares."""
    difference, mean, square = means
    return np.sqrt(difference / np.maximum(square - mean**2, np.finfo(np.float32).tiny))


class _Layers:
    """A file whose every output can be seen."""

    def __init__(self, path, images):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        if load_exported(path).format != "TFLite":
            raise DMFormerError(
                f"{path} is not a TFLite file, the only format whose layers can be read; give one."
            )
        self.interpreter = Interpreter(
            str(path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        self.source = self.interpreter.get_input_details()[0]
        shape = self.source["shape"]
        found, expected = (1, *images.shape[1:]), tuple(map(int, shape))
        if found != expected:
            raise DMFormerError(
                f"{path} takes images of shape {expected}, not {found}; "
                "export it with batch_size=1 and give images of its size."
            )
        self.interpreter.allocate_tensors()
        self.details = {tensor["index"]: tensor for tensor in self.interpreter.get_tensor_details()}
        self.layers = {
            self.details[layer["outputs"][0]]["name"]: layer
            for layer in self.interpreter._get_ops_details()
        }
        self.operators = {name: layer["op_name"] for name, layer in self.layers.items()}

    def outputs(self, image):
        self.interpreter.set_tensor(self.source["index"], quantized(image[None], self.source))
        self.interpreter.invoke()
        return {
            name: self._output(self.details[layer["outputs"][0]])
            for name, layer in self.layers.items()
        }

    def _output(self, details):
        return dequantized(self.interpreter.get_tensor(details["index"]), details)
