"""How far an exported file's outputs are from Keras's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from dmformer_keras.errors import DMFormerError
from dmformer_keras.export.exported_model import load_exported
from dmformer_keras.type_names import PathLike

if TYPE_CHECKING:
    import keras

    from dmformer_keras.export.exported_model import ExportedModel


def compare_exported(
    model: keras.Model,
    exported: PathLike | ExportedModel,
    images: NDArray[Any],
    batch_size: int = 32,
) -> dict[str, float]:
    """Compares an exported file with the Keras model that it was made from.

    Args:
        model: the `keras.Model`.
        exported: path of the file, or ExportedModel.
        images: array `(count, height, width, channels)`, as the model takes them. Real
            images say more than random ones.
        batch_size: positive int, images at a time, of maps always one.

    Returns:
        dict of floats: `max_difference` and `mean_difference` of the outputs;
        `output_range`, largest minus smallest Keras output; `relative_difference`,
        `max_difference` over it; `relative_error`, the root mean square of the
        differences over the standard deviation of Keras's outputs; `top1_agreement`, the
        part of all positions (images, or pixels of a map) whose largest channel is the
        same in both, or of one channel the side of the threshold.

    Raises:
        DMFormerError: the file cannot be run on these images, or is of another model.

    Example:

    >>> compare_exported(model, "classifier.tflite", images)  # doctest: +SKIP
    """
    exported = load_exported(exported) if isinstance(exported, (str, os.PathLike)) else exported
    sums = _Sums(exported.description.get("output", {}).get("threshold"))
    # Maps one at a time: a batch of them may take gigabytes.
    batch_size = 1 if len(exported.output.shape) == 4 else batch_size
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size], np.float32)
        actual = exported.predict_on_batch(batch)
        expected = np.asarray(model.predict(batch, batch_size=batch_size, verbose=0), np.float32)
        if expected.shape != actual.shape:
            raise DMFormerError(
                f"{exported.path} gives outputs of shape {actual.shape[1:]}, but {model.name!r} "
                f"gives {expected.shape[1:]}; compare it with the model that it was made from."
            )
        sums.add(expected.astype(np.float64), actual)
    return sums.figures()


class _Sums:
    """What `compare_exported` needs of all outputs, without keeping them."""

    def __init__(self, threshold=None):
        self.threshold = threshold
        self.count = self.total = self.squares = self.differences = self.square_differences = 0
        self.largest_difference, self.least, self.most = 0.0, np.inf, -np.inf
        self.positions = self.agreeing = 0

    def add(self, expected, actual):
        differences = np.abs(expected - actual)
        self.count += expected.size
        self.total += expected.sum()
        self.squares += (expected**2).sum()
        self.differences += differences.sum()
        self.square_differences += (differences**2).sum()
        self.largest_difference = np.maximum(self.largest_difference, differences.max())
        self.least = min(self.least, expected.min())
        self.most = max(self.most, expected.max())
        agreeing = self._likeliest(expected) == self._likeliest(actual)
        self.positions += agreeing.size
        self.agreeing += agreeing.sum()

    def _likeliest(self, outputs):
        return outputs.argmax(-1) if self.threshold is None else outputs > self.threshold

    def figures(self):
        tiny = np.finfo("float32").tiny
        output_range = self.most - self.least
        variance = max(self.squares / self.count - (self.total / self.count) ** 2, tiny)
        figures = {
            "max_difference": self.largest_difference,
            "mean_difference": self.differences / self.count,
            "output_range": output_range,
            "relative_difference": self.largest_difference / max(output_range, tiny),
            "relative_error": np.sqrt(self.square_differences / self.count / variance),
            "top1_agreement": self.agreeing / self.positions,
        }
        return {name: float(value) for name, value in figures.items()}
