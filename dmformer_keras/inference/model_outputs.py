"""What a model takes and gives: a Keras model here, or an exported file that runs like one."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmformer_keras.classifier import DEFAULT_SIZE
from dmformer_keras.errors import DMFormerError
from dmformer_keras.layers.backend_paths import predicting

# {activation: threshold}: a single output above it is the second of two classes.
THRESHOLDS = {"linear": 0.0, "sigmoid": 0.5}


def is_binary(model: Any) -> bool:
    """Tells whether a model gives one output per image, which stands for two classes."""
    shape = model.outputs[0].shape if hasattr(model, "outputs") else model.output.shape
    return len(shape) == 2 and shape[-1] == 1


def is_segmenter(model: Any) -> bool:
    """Tells whether a model gives its classes for each pixel.

    Args:
        model: what `load_trained` returns.

    Returns:
        bool.
    """
    return len(model.output.shape) == 4


def image_size_of(model: Any) -> tuple[int, int]:
    """The size of the images that a classifier is given.

    Args:
        model: `DMFormerClassifier`, channels last.

    Returns:
        (height, width), ints, in pixels; 224 for a side that may be any.

    Example:

    >>> from dmformer_keras import DMFormerN
    >>> image_size_of(DMFormerN(input_shape=(64, None, 3), num_classes=4))
    (64, 224)
    """
    height, width = model.input.shape[1:3]
    return height or DEFAULT_SIZE, width or DEFAULT_SIZE


def class_names_of(model: Any) -> list[str]:
    """The names of a model's classes, or their numbers where it has no names.

    A model of one output has two classes: 0, and 1, which the output speaks for.
    """
    names = list(model.class_names or ())
    if is_binary(model) and len(names) == 1:
        return [f"not {names[0]}", names[0]]
    return names or [str(index) for index in range(2 if is_binary(model) else model.num_classes)]


def predicted(model: Any, images: NDArray[np.float32]) -> Any:
    """A model's outputs for a batch, from whatever thread this is called: what `predict_on_batch`
    returns.
    """
    # An exported file sees to its threads itself.
    with predicting() if isinstance(model, keras.Model) else contextlib.nullcontext():
        return model.predict_on_batch(images)


def warn_of_scaled_pixels(images: ArrayLike) -> None:
    """Warns where no pixel of a batch is over 1: images in 0..1 give wrong answers silently.

    A batch that is black says nothing of how it is scaled.
    """
    if 0 < np.max(images, initial=0) <= 1:
        warnings.warn(
            "No pixel of a batch of images is over 1, and pixels are expected in 0..255: multiply "
            "images in 0..1 by 255, or the answers are wrong.",
            stacklevel=3,
        )


def to_probabilities(outputs: ArrayLike, activation: str | None) -> NDArray[np.float64]:
    """A classifier's outputs as probabilities, in float64.

    Args:
        outputs: array (batch, classes), logits, or probabilities of a softmax; or (batch, 1), the
            logit or the sigmoid of the second of two classes.
        activation: the classifier's: None, "linear", "softmax" or, of one output, "sigmoid".

    Returns:
        float64 array (batch, classes), every row of sum 1; of one output (batch, 2).

    Raises:
        DMFormerError: the outputs are of another kind, or not finite.

    Example:

    >>> to_probabilities(np.array([[0.0, np.log(3.0)]]), None).round(2).tolist()
    [[0.25, 0.75]]
    """
    outputs = np.asarray(outputs, np.float64)
    binary = outputs.shape[-1] == 1
    squashed = "sigmoid" if binary else "softmax"
    if activation not in (None, "linear", squashed):
        raise DMFormerError(
            f"The model ends in {activation!r}, where logits or a {squashed} were expected; save "
            "it with activation=None."
        )
    if not np.isfinite(outputs).all():
        raise DMFormerError(
            "The model's outputs are not finite: its weights are broken, or overflow in 16 bits; "
            "train it again at a lower learning rate, or in float32."
        )
    if binary:
        first = 1 - outputs if activation == "sigmoid" else np.zeros_like(outputs)
        outputs = np.concatenate([first, outputs], axis=-1)
    if activation == squashed:
        return outputs / outputs.sum(axis=-1, keepdims=True)
    exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
