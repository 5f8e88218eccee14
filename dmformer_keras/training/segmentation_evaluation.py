"""Exact metrics of a segmenter, from one confusion matrix over every pixel."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmformer_keras.data import IGNORED_LABEL
from dmformer_keras.errors import DMFormerError
from dmformer_keras.inference import segment_image
from dmformer_keras.system.bars import progress_bar
from dmformer_keras.training.evaluation import check_classes
from dmformer_keras.type_names import Model

if TYPE_CHECKING:
    from dmformer_keras.data import SegmentationSource


@dataclasses.dataclass(frozen=True)
class SegmentationEvaluation:
    """The counts of a segmenter's right pixels, without ignored ones.

    A class that neither occurs nor is predicted has no intersection over union, and is left
    out of the mean; so is, of mean accuracy, a class that does not occur.

    Args:
        class_names: list of str.
        confusion: int64 array (classes, classes), pixels by true and by predicted class.
        examples: int, the number of images.

    Example:

    >>> evaluation = SegmentationEvaluation(["sky", "road"], np.array([[6, 2], [0, 4]]), 1)
    >>> evaluation.class_iou
    {'sky': 0.75, 'road': 0.6666666666666666}
    >>> evaluation.pixel_accuracy
    0.8333333333333334
    """

    class_names: list[str]
    confusion: np.ndarray
    examples: int

    @property
    def miou(self) -> float:
        """float in 0..1, the mean of the classes' intersections over unions."""
        return _mean(self.class_iou.values())

    @property
    def pixel_accuracy(self) -> float:
        """float in 0..1, the share of pixels whose class was predicted."""
        return int(np.trace(self.confusion)) / int(self.confusion.sum())

    @property
    def mean_accuracy(self) -> float:
        """float in 0..1, the mean of the classes' accuracies."""
        return _mean(self.class_accuracy.values())

    @property
    def frequency_weighted_iou(self) -> float:
        """float in 0..1, the classes' intersections over unions weighted by their pixels."""
        right, true, union = self._sums()
        shares = np.divide(right, union, out=np.zeros(len(right)), where=union > 0)
        return float((shares * true).sum() / true.sum())

    @property
    def class_iou(self) -> dict[str, float | None]:
        """{class name: float in 0..1, or None for a class not there and not predicted}."""
        right, _, union = self._sums()
        return self._by_name(right, union)

    @property
    def class_accuracy(self) -> dict[str, float | None]:
        """{class name: float in 0..1, or None for a class without pixels}."""
        right, true, _ = self._sums()
        return self._by_name(right, true)

    def metrics(self) -> dict[str, Any]:
        """The metrics as JSON values.

        Returns:
            dict: miou, pixel_accuracy, mean_accuracy, frequency_weighted_iou, examples.
        """
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "examples": self.examples,
        }

    def _sums(self):
        right, true = np.diag(self.confusion), self.confusion.sum(axis=1)
        return right, true, true + self.confusion.sum(axis=0) - right

    def _by_name(self, right, totals):
        return {
            name: int(count) / int(total) if total else None
            for name, count, total in zip(self.class_names, right, totals, strict=True)
        }


def count_confusion(truth: ArrayLike, prediction: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts the pixels of each true and each predicted class.

    Args:
        truth: int array of any shape; pixels of `IGNORED_LABEL` are left out.
        prediction: int array of the same shape.
        num_classes: int.

    Returns:
        int64 array (num_classes, num_classes), by true class, then by predicted one.

    Example:

    >>> count_confusion(np.array([0, 1, 1, 255]), np.array([0, 0, 1, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    true, found = np.asarray(truth), np.asarray(prediction)
    known = true != IGNORED_LABEL
    pairs = true[known].astype(np.int64) * num_classes + found[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def evaluate_segmenter(
    model: Model, source: SegmentationSource, *, progress: bool = False, **how: Any
) -> SegmentationEvaluation:
    """Measures a segmenter on a source, image by image, each in its own size.

    Args:
        model: `SemanticFPN`, `UPerNet`, or a `FusedModel` of one.
        source: SegmentationSource, with the model's classes and channels.
        progress: bool, show a progress bar on stderr.
        **how: `window`, `overlap`, `flip` and `scales` of `dmformer_keras.inference.segment_image`.

    Returns:
        SegmentationEvaluation.

    Raises:
        DMFormerError: the source's classes are not the model's, an image cannot be read,
            no pixel has a class, or an output is not finite.

    Example:

    >>> from dmformer_keras import DMFormerBackbone, SemanticFPN
    >>> from dmformer_keras.data import open_source
    >>> backbone = DMFormerBackbone((8, 8, 8, 8), (1, 1, 1, 1), input_shape=(None, None, 3))
    >>> model = SemanticFPN(backbone, num_classes=2, head_channels=8)
    >>> images, masks = np.zeros((2, 40, 50, 3), "uint8"), np.zeros((2, 40, 50), "uint8")
    >>> masks[:, :20] = 1
    >>> evaluate_segmenter(model, open_source((images, masks), "all", task="segment")).examples
    2
    """
    check_classes(model, source)
    classes = len(source.class_names)
    confusion = np.zeros((classes, classes), np.int64)
    with progress_bar("Evaluating", len(source), shown=progress) as bar:
        for index in range(len(source)):
            image, truth = source.read(index)
            confusion += count_confusion(truth, segment_image(model, image, **how), classes)
            bar.update(1)
    if not confusion.any():
        raise DMFormerError(
            f"No pixel of {source.title} has a class, so nothing can be measured; check its masks."
        )
    return SegmentationEvaluation(source.class_names, confusion, len(source))


def _mean(shares):
    known = [share for share in shares if share is not None]
    return sum(known) / len(known)
