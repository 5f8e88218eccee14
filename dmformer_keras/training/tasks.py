"""What differs between training a classifier and training a segmenter."""

import keras
import numpy as np

from dmformer_keras import presets
from dmformer_keras.classifier import DEFAULT_SIZE, DMFormerClassifier
from dmformer_keras.data import open_source
from dmformer_keras.data.segmentation_source import count_pixels
from dmformer_keras.errors import DMFormerError
from dmformer_keras.task_table import SEGMENTATION_HEADS
from dmformer_keras.training import figures
from dmformer_keras.training.evaluation import evaluate
from dmformer_keras.training.losses import PixelAccuracy, SegmentationLoss, SmoothedCrossEntropy
from dmformer_keras.training.recipe import SegmentationRecipe
from dmformer_keras.training.segmentation_evaluation import evaluate_segmenter
from dmformer_keras.training.teacher import (
    TaughtAccuracy,
    TaughtLoss,
    TaughtPixelAccuracy,
    TaughtSegmentationLoss,
)


def task_of(recipe):
    """Returns the task that a recipe is of: Classification or Segmentation."""
    return (
        Segmentation(recipe) if isinstance(recipe, SegmentationRecipe) else Classification(recipe)
    )


class Task:
    """What a run does by the kind of its model; each kind is a subclass.

    Args:
        recipe: Recipe or SegmentationRecipe.

    Attributes:
        kind: str, of the model, for messages.
        best: str, the column of the history that says which epoch is kept.
        ranked_by: the columns that `rank` asks for.
        curves: list of (title, unit, {label: (column, factor)}), what `curves.png` shows.
    """

    kind = best = ""
    ranked_by: tuple = ()
    curves: tuple = ()

    def __init__(self, recipe):
        self.recipe = recipe

    def open(self, source, split, **options):
        """Opens a split of the images; the options are those of `open_source`."""
        raise NotImplementedError

    def build(self, preset, source, overrides, image_size):
        """Builds the model from a preset, for a source's classes and image size (height, width)."""
        raise NotImplementedError

    def keeps_head(self, preset, source, model):
        """Tells whether a model that was built from a preset has the preset's head, too."""
        stored = presets.stored_head(preset, type(model))
        return presets.has_head_for(preset, model) and _has_classes(stored, source)

    def training_size(self, preset):
        """Returns the (height, width) of the training batches, in pixels."""
        raise NotImplementedError

    def objective(self, source, teacher=None):
        """Returns (loss, metrics) to compile with."""
        raise NotImplementedError

    def evaluate(self, model, source, progress=False):
        """Returns the model's Evaluation or SegmentationEvaluation on a source."""
        raise NotImplementedError

    def rank(self, row):
        """Returns the value by which the best epoch is chosen, from a row of the history."""
        raise NotImplementedError

    def report(self, evaluation):
        """Returns what a report says of an evaluation, as JSON values."""
        raise NotImplementedError

    def draw_confusion(self, evaluation, path):
        """Draws the confusion matrix."""
        raise NotImplementedError


class Classification(Task):
    """Training a `DMFormerClassifier` by a Recipe."""

    kind = "classifier"
    best = "val_top1"
    ranked_by = ("val_top1", "val_loss")
    curves = (
        (
            "Loss",
            "cross-entropy (nats)",
            {"training (augmented, smoothed)": ("loss", 1), "validation": ("val_loss", 1)},
        ),
        (
            "Top-1 accuracy",
            "accuracy (%)",
            {"training (augmented)": ("accuracy", 100), "validation": ("val_top1", 100)},
        ),
    )

    def open(self, source, split, **options):
        return open_source(source, split, channels=self.recipe.channels, **options)

    def build(self, preset, source, overrides, image_size):
        stored = presets.stored_head(presets.read_preset(preset), DMFormerClassifier)
        return DMFormerClassifier.from_preset(
            preset,
            load_head=_has_classes(stored, source),
            num_classes=len(source.class_names),
            class_names=source.class_names,
            dropout=self.recipe.dropout,
            activation="linear",
            input_shape=(*image_size, source.channels),
            **overrides,
        )

    def training_size(self, preset):
        if self.recipe.image_size is not None:
            return (self.recipe.image_size,) * 2
        stored = presets.image_shape(presets.read_preset(preset).config)
        return tuple(side or DEFAULT_SIZE for side in stored[:2])

    def objective(self, source, teacher=None):
        recipe, classes = self.recipe, len(source.class_names)
        loss = SmoothedCrossEntropy(recipe.label_smoothing, self._class_weights(source))
        if teacher is not None:
            loss = TaughtLoss(
                loss,
                classes,
                teacher.known,
                recipe.teacher_weight,
                recipe.temperature,
                recipe.feature_weight,
                live=teacher.is_live,
            )
            return loss, [TaughtAccuracy(classes)]
        # For mixed images, the accuracy on the class with the larger share.
        kind = "SparseCategoricalAccuracy" if recipe.mixing is None else "CategoricalAccuracy"
        return loss, [getattr(keras.metrics, kind)(name="accuracy")]

    def _class_weights(self, source):
        """The weights of the classes in the loss, 1 on average over the images, or None."""
        if self.recipe.class_weighting == "none":
            return None
        if source.labels is None:
            raise DMFormerError(
                f"The images of {source.title} are streamed, and their classes were not counted: "
                "leave out class_weighting."
            )
        counts = np.bincount(source.labels, minlength=len(source.class_names))
        weights = np.array(class_weights(counts, self.recipe.class_weighting))
        return weights / np.average(weights, weights=counts)

    def evaluate(self, model, source, progress=False):
        return evaluate(model, source, progress=progress)

    def rank(self, row):
        top1, loss = (row[name] for name in self.ranked_by)
        return top1, -loss

    def report(self, evaluation):
        return {
            **evaluation.metrics(),
            "class_accuracy": evaluation.class_accuracy,
            "confusion_matrix": evaluation.confusion.tolist(),
        }

    def draw_confusion(self, evaluation, path):
        title = f"Validation: top-1 {evaluation.top1:.1%} of {evaluation.examples} images"
        figures.draw_confusion_matrix(evaluation, path, title)


class Segmentation(Task):
    """Training a `SemanticFPN` or `UPerNet` by a SegmentationRecipe."""

    kind = "segmenter"
    best = "val_miou"
    ranked_by = ("val_miou", "val_pixel_accuracy")
    curves = (
        ("Loss", "loss", {"training (augmented)": ("loss", 1)}),
        (
            "Accuracy",
            "%",
            {
                "validation mIoU": ("val_miou", 100),
                "validation pixel accuracy": ("val_pixel_accuracy", 100),
                "training pixel accuracy (augmented)": ("accuracy", 100),
            },
        ),
    )

    def open(self, source, split, **options):
        # Always verified, because this counts the pixels of the classes.
        options |= {"task": "segment", "channels": self.recipe.channels, "verify": True}
        opened = open_source(source, split, **options)
        if opened.pixel_counts is not None and not opened.pixel_counts.any():
            raise DMFormerError(
                f"No pixel of {opened.title}, split {split}, has a class: all are ignored; check "
                "the masks' values."
            )
        return opened

    def build(self, preset, source, overrides, image_size):
        recipe, cls = self.recipe, SEGMENTATION_HEADS[self.recipe.head]
        stored = presets.stored_head(presets.read_preset(preset), cls)
        return cls.from_preset(
            preset,
            load_head=_has_classes(stored, source),
            num_classes=len(source.class_names),
            class_names=source.class_names,
            class_colors=source.class_colors,
            head_channels=recipe.head_channels,
            normalization=recipe.normalization or (None if stored else "batch"),
            dropout=recipe.dropout,
            activation="linear",
            input_shape=(None, None, source.channels),
            **overrides,
        )

    def training_size(self, preset):
        return (self.recipe.image_size,) * 2

    def objective(self, source, teacher=None):
        recipe, classes = self.recipe, len(source.class_names)
        settings = {
            "class_weights": self._class_weights(source),
            "dice": recipe.dice,
            "lovasz": recipe.lovasz,
        }
        if teacher is None:
            return SegmentationLoss(**settings), [PixelAccuracy()]
        weights = {"teacher_weight": recipe.teacher_weight, "temperature": recipe.temperature}
        loss = TaughtSegmentationLoss(classes, teacher.known, **weights, **settings)
        return loss, [TaughtPixelAccuracy(classes)]

    def evaluate(self, model, source, progress=False):
        return evaluate_segmenter(model, source, progress=progress)

    def rank(self, row):
        return tuple(row[name] for name in self.ranked_by)

    def report(self, evaluation):
        return {
            **evaluation.metrics(),
            "class_iou": evaluation.class_iou,
            "class_accuracy": evaluation.class_accuracy,
            "confusion_matrix": evaluation.confusion.tolist(),
        }

    def draw_confusion(self, evaluation, path):
        title = f"Validation: mIoU {evaluation.miou:.1%}, pixels"
        figures.draw_confusion_matrix(evaluation, path, title)

    def _class_weights(self, source):
        if self.recipe.class_weighting == "none":
            return None
        return class_weights(count_pixels(source), self.recipe.class_weighting)


def _has_classes(stored, source):
    """Tells whether a stored head was trained for the source's classes, in their order."""
    return stored.get("class_names") in (None, source.class_names)


def class_weights(counts, weighting):
    """The weights of classes in the loss, from how often they occur; 0 for a class that does not.

    Example:

    >>> class_weights([50, 25, 12.5, 0], "median_frequency")
    [0.5, 1.0, 2.0, 0.0]
    """
    counts = np.asarray(counts, np.float64)
    occurs = counts > 0
    if not occurs.any():
        raise DMFormerError(
            "No pixel of the masks has a class, so classes cannot be weighted; check the masks."
        )
    shares = counts / counts.sum()
    with np.errstate(divide="ignore"):
        weights = (
            np.median(shares[occurs]) / shares
            if weighting == "median_frequency"
            else 1 / np.log(1.02 + shares)
        )
    return [float(weight) for weight in np.where(occurs, weights, 0.0)]
