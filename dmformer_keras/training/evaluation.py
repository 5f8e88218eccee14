"""Exact metrics of a classifier: counted over every image, never averaged over batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dmformer_keras.errors import DMFormerError
from dmformer_keras.inference.model_outputs import (
    class_names_of,
    image_size_of,
    is_binary,
    to_probabilities,
    warn_of_scaled_pixels,
)
from dmformer_keras.system.bars import progress_bar
from dmformer_keras.training.batches import evaluation_batches, stated_data_errors
from dmformer_keras.type_names import Model

if TYPE_CHECKING:
    from dmformer_keras.data import ImageSource


# One size for the report of a training run and for `dmformer evaluate`: another one may
# change the last bits of a logit.
EVALUATION_BATCH_SIZE = 64
TOP5 = 5


def tells_top5(class_names: Sequence[str]) -> bool:
    """Whether people are shown top-5: of ten classes, five are half. JSON and the history have it
    from six classes on.

    Example:

    >>> tells_top5(["cat", "dog", "horse", "cow", "sheep", "goat"])
    False
    """
    return len(class_names) > 2 * TOP5


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The counts of a classifier's right predictions.

    Args:
        class_names: list of str.
        confusion: int64 array (classes, classes), images by true and by predicted class.
        top5_correct: int, images whose class is among the five likeliest, or None with
            five classes or fewer, where it says nothing.
        loss: float, the mean cross-entropy in nats, without label smoothing.

    Example:

    >>> evaluation = Evaluation(["cat", "dog"], np.array([[3, 1], [0, 4]]), None, 0.5)
    >>> evaluation.examples, evaluation.top1
    (8, 0.875)
    >>> evaluation.class_accuracy
    {'cat': 0.75, 'dog': 1.0}
    """

    class_names: list[str]
    confusion: np.ndarray
    top5_correct: int | None
    loss: float

    @property
    def examples(self) -> int:
        """int, the number of images."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """float in 0..1, the share of images whose class was the likeliest."""
        return int(np.trace(self.confusion)) / self.examples

    @property
    def top5(self) -> float | None:
        """float in 0..1, or None with five classes or fewer."""
        return None if self.top5_correct is None else self.top5_correct / self.examples

    @property
    def class_accuracy(self) -> dict[str, float | None]:
        """{class name: float in 0..1, or None for a class without images}."""
        right, totals = np.diag(self.confusion), self.confusion.sum(axis=1)
        return {
            name: int(count) / int(total) if total else None
            for name, count, total in zip(self.class_names, right, totals, strict=True)
        }

    def metrics(self) -> dict[str, Any]:
        """The metrics as JSON values: top1, top5 (over five classes), loss, examples.

        Returns:
            dict.
        """
        metrics = {"top1": self.top1, "top5": self.top5, "loss": self.loss}
        metrics["examples"] = self.examples
        return {name: value for name, value in metrics.items() if value is not None}


def evaluate(
    model: Model,
    source: ImageSource,
    *,
    batch_size: int = EVALUATION_BATCH_SIZE,
    progress: bool = False,
) -> Evaluation:
    """Measures a classifier on a source, streaming over its images.

    Args:
        model: `DMFormerClassifier`, its outputs logits or a softmax; one output is of two classes.
        source: ImageSource, with the model's classes and channels.
        batch_size: int, positive.
        progress: bool, show a progress bar on stderr.

    Returns:
        Evaluation.

    Raises:
        DMFormerError: the source's classes are not the model's, an image cannot be read,
            or an output is not finite.

    Example:

    >>> from dmformer_keras import DMFormerClassifier, DMFormerBackbone
    >>> from dmformer_keras.data import open_source
    >>> backbone = DMFormerBackbone((8, 8, 8, 8), (1, 1, 1, 1), input_shape=(32, 32, 1))
    >>> digits = open_source("digits", split="val", channels=1)
    >>> evaluate(DMFormerClassifier(backbone, num_classes=10), digits).examples
    179
    """
    check_classes(model, source)
    counts = _Counts(source.class_names)
    batches = evaluation_batches(source, image_size_of(model), batch_size)
    with stated_data_errors(), progress_bar("Evaluating", len(source), shown=progress) as bar:
        for images, labels in batches:
            warn_of_scaled_pixels(images)
            outputs = np.asarray(model.predict_on_batch(images), np.float64)
            counts.add(to_probabilities(outputs, model.activation), labels)
            bar.update(len(labels))
    return counts.evaluation()


def check_classes(model, source):
    """Checks that a source has the classes of a model, in the same order."""
    own_names, num_classes = getattr(model, "class_names", None), model.output.shape[-1]
    if is_binary(model):
        own_names, num_classes = own_names and class_names_of(model), 2
    names = own_names or source.class_names
    if num_classes != len(source.class_names) or list(names) != source.class_names:
        raise DMFormerError(
            f"The model knows {_some(own_names, num_classes)}, but {source.title} "
            f"has {_some(source.class_names, len(source.class_names))}; give data with the "
            "model's classes in the model's order."
        )


class _Counts:
    """Counts over batches."""

    def __init__(self, class_names):
        self.class_names = list(class_names)
        classes = len(self.class_names)
        self.confusion = np.zeros((classes, classes), np.int64)
        self.top5 = 0 if classes > TOP5 else None
        self.loss = 0.0

    def add(self, probabilities, labels):
        ranked = np.argsort(-probabilities, axis=1, kind="stable")
        np.add.at(self.confusion, (labels, ranked[:, 0]), 1)
        if self.top5 is not None:
            self.top5 += int((ranked[:, :TOP5] == labels[:, None]).any(axis=1).sum())
        of_truth = probabilities[np.arange(len(labels)), labels]
        # The smallest positive number instead of 0, whose logarithm is not finite.
        self.loss -= float(np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).sum())

    def evaluation(self):
        examples = int(self.confusion.sum())
        return Evaluation(self.class_names, self.confusion, self.top5, self.loss / examples)


def _some(names, count):
    if not names:
        return f"{count} classes without names"
    listed = ", ".join(list(names)[:3]) + (", ..." if count > 3 else "")
    return f"{count} classes ({listed})"
