"""The losses that training minimizes, and the accuracy that it shows."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from dmformer_keras.data import IGNORED_LABEL
from dmformer_keras.errors import DMFormerError
from dmformer_keras.layers import replicas
from dmformer_keras.type_names import Config, Tensor


@keras.saving.register_keras_serializable(package="dmformer_keras")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits with label smoothing, for targets that are class indexes or shares.

    Targets are `(batch,)` ints, or `(batch, classes)` floats, the share of each class in a mixture.
    The loss of an image is multiplied by the entry of `class_weights` for its class; in a mixture,
    the entries are averaged by the shares.

    >>> import numpy as np
    >>> loss = SmoothedCrossEntropy(label_smoothing=0.0)
    >>> round(float(loss(np.array([1]), np.zeros((1, 4), "float32"))), 4)  # log(4)
    1.3863
    """

    def __init__(
        self, label_smoothing=0.0, class_weights=None, name="smoothed_cross_entropy", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]

    def call(self, y_true, y_pred):
        shares = y_true
        if len(y_true.shape) == 1:
            # Keras casts targets to the loss's float dtype before this call.
            shares = ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        losses = keras.losses.categorical_crossentropy(
            shares, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )
        if self.class_weights is None:
            return losses
        weights = ops.array(self.class_weights, losses.dtype)
        return losses * ops.sum(ops.cast(shares, losses.dtype) * weights, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "class_weights": self.class_weights,
        }


@keras.saving.register_keras_serializable(package="dmformer_keras")
class SegmentationLoss(keras.losses.Loss):
    """Cross-entropy over the pixels of a mask, ignored ones left out; Dice and Lovász beside it.

    The mean is over all pixels of the batch that have a class, each weighted by its
    class. A batch without such a pixel has the loss 0 and no gradient. Computed in
    float32 whatever the logits are. Where several devices share a batch, the mean and the Dice
    loss are over all of it; the Lovász loss, which sorts the pixels, over each device's part.

    Args:
        class_weights: sequence of floats, one per class, or `None` for 1 each.
        dice: float. Weight of the soft Dice loss, a mean over the classes that occur in
            the batch (Milletari et al. 2016, with sums in the denominator).
        lovasz: float. Weight of the Lovász-softmax loss, likewise (Berman et al. 2018), over
            all pixels of the batch.
        ignored_label: int. The label of pixels without a class.
        from_logits: bool. `False` for predictions that are probabilities.
        **kwargs: the usual arguments of `keras.losses.Loss`.

    Targets: `(batch, height, width)` ints, or with a last axis of 1. Predictions: `(batch, height,
    width, classes)` logits, or probabilities. The loss: one number.

    A `sample_weight`, also that of `fit`, multiplies the losses of pixels `(batch, height, width)`
    or of images `(batch,)` before they are added up; as in Keras, the mean does not divide by it
    (but does with `reduction="mean_with_sample_weight"`). The Dice and Lovász losses are of areas,
    which such weights do not multiply: with them, it is refused.

    Raises:
        DMFormerError: a `sample_weight` fits neither the pixels nor the images, or is given
            together with `dice` or `lovasz`.

    Example:

    >>> import numpy as np
    >>> masks = np.array([[[0, 255], [255, 255]]])
    >>> logits = np.random.default_rng(0).normal(size=(1, 2, 2, 3)).astype("float32")
    >>> logits[0, 0, 0] = 0  # log(3)
    >>> round(float(SegmentationLoss()(masks, logits)), 4)
    1.0986
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        dice: float = 0.0,
        lovasz: float = 0.0,
        ignored_label: int = IGNORED_LABEL,
        from_logits: bool = True,
        name: str = "segmentation_loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]
        self.dice = dice
        self.lovasz = lovasz
        self.ignored_label = ignored_label
        self.from_logits = from_logits

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        if sample_weight is None:
            return super().__call__(y_true, y_pred)
        if self.dice or self.lovasz:
            raise DMFormerError(
                "The Dice and Lovász losses do not support a sample_weight; "
                f"leave out dice and lovasz, or give ignored pixels the label "
                f"{self.ignored_label}."
            )
        with keras.name_scope(self.name):
            y_pred = ops.convert_to_tensor(y_pred, self.dtype)
            return ops.cast(self.call(y_true, y_pred, sample_weight), self.dtype)

    def call(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return self._total(y_true, y_pred, _cross_entropies, sample_weight)

    def _total(self, y_true, y_pred, pixel_losses, sample_weight=None):
        """The loss, where a function of (labels, logits) gives that of each pixel."""
        classes = y_pred.shape[-1]
        logits = ops.cast(ops.reshape(y_pred, (-1, classes)), "float32")
        if not self.from_logits:
            logits = ops.log(ops.maximum(logits, 1e-7))  # whose softmax they are
        # Keras casts targets to the loss's float dtype before this call.
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        known = labels != self.ignored_label
        labels = ops.where(known, labels, 0)
        known = ops.cast(known, "float32")
        chosen = ops.ones_like(known)
        if sample_weight is not None:
            chosen = ops.reshape(_pixel_weights(sample_weight, y_pred), (-1,))
        loss = self._mean(pixel_losses(labels, logits), labels, known, chosen)
        if self.dice or self.lovasz:
            probabilities = ops.softmax(logits) * known[:, None]
            truth = ops.one_hot(labels, classes, dtype="float32") * known[:, None]
            if self.dice:
                loss = loss + self.dice * _dice(truth, probabilities)
            if self.lovasz:
                occurs = ops.cast(ops.sum(truth, axis=0) > 0, "float32")
                loss = loss + self.lovasz * _mean(_lovasz(truth, probabilities), occurs)
        return loss

    def _mean(self, losses, labels, known, chosen):
        weights = known
        if self.class_weights is not None:
            weights = known * ops.take(ops.array(self.class_weights, "float32"), labels)
        counted = weights * chosen
        if self.reduction == "mean_with_sample_weight":
            weights = counted
        # The mean over the copies of this is the mean over all pixels.
        share = replicas.count() / ops.maximum(replicas.total(ops.sum(weights)), 1e-12)
        return share * ops.sum(losses * counted)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "class_weights": self.class_weights,
            "dice": self.dice,
            "lovasz": self.lovasz,
            "ignored_label": self.ignored_label,
            "from_logits": self.from_logits,
        }


def _cross_entropies(labels, logits):
    return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def _pixel_weights(sample_weight, y_pred):
    """A `sample_weight` of images or pixels as one float32 weight per pixel: a float32 tensor
    (batch, height, width).
    """
    weights = ops.convert_to_tensor(sample_weight, "float32")
    shape, pixels = tuple(weights.shape), tuple(y_pred.shape[:-1])
    if len(shape) == 4 and shape[-1] == 1:
        weights = ops.squeeze(weights, axis=-1)
    elif len(shape) <= 1 or (len(shape) == 2 and shape[-1] == 1):
        weights = ops.reshape(weights, (-1, 1, 1))
    own = tuple(weights.shape)
    if len(own) != 3 or any(
        size not in (1, None, whole) and whole is not None
        for size, whole in zip(own, pixels, strict=True)
    ):
        raise DMFormerError(
            "A sample_weight of masks must have one weight per pixel, (batch, height, width), or "
            f"per image, (batch,): here {pixels} or {pixels[:1]}, not {shape}."
        )
    return ops.broadcast_to(weights, ops.shape(y_pred)[:-1])


def _mean(values, weights):
    """The weighted mean, 0 where no weight is."""
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1e-12)


def _dice(truth, probabilities):
    """The mean of the soft Dice losses of the classes that occur."""
    own = ops.stack([ops.sum(part, axis=0) for part in (truth * probabilities, probabilities)])
    both, predicted = ops.unstack(replicas.total(own), axis=0)
    true = replicas.total(ops.sum(truth, axis=0))
    losses = 1.0 - 2.0 * both / ops.maximum(true + predicted, 1e-12)
    return _mean(losses, ops.cast(true > 0, "float32"))


def _lovasz(truth, probabilities):
    """The Lovász extension of each class's Jaccard loss.

    Ignored pixels have no error: they come last in the order, and count nothing.
    """
    errors = ops.abs(truth - probabilities)
    order = ops.argsort(-ops.stop_gradient(errors), axis=0)
    errors = ops.take_along_axis(errors, order, axis=0)
    truth = ops.take_along_axis(truth, order, axis=0)
    total = ops.sum(truth, axis=0, keepdims=True)
    intersection = total - ops.cumsum(truth, axis=0)
    union = total + ops.cumsum(1.0 - truth, axis=0)
    jaccard = 1.0 - intersection / union
    steps = ops.concatenate([jaccard[:1], jaccard[1:] - jaccard[:-1]], axis=0)
    return ops.sum(errors * ops.stop_gradient(steps), axis=0)


@keras.saving.register_keras_serializable(package="dmformer_keras")
class PixelAccuracy(keras.metrics.Mean):
    """The share of the pixels with a class whose likeliest class it is.

    Args:
        ignored_label: int. The label of pixels without a class.
        **kwargs: the usual arguments of `keras.metrics.Mean`.

    A `sample_weight`, which Keras gives to `weighted_metrics`, says how much each pixel
    `(batch, height, width)` or each image `(batch,)` counts.

    Raises:
        DMFormerError: a `sample_weight` fits neither the pixels nor the images.

    Example:

    >>> import numpy as np
    >>> accuracy = PixelAccuracy()
    >>> accuracy.update_state(np.array([[[0, 1, 255]]]), np.eye(2, dtype="float32")[[[[0, 0, 1]]]])
    >>> float(accuracy.result())
    0.5
    """

    def __init__(
        self, ignored_label: int = IGNORED_LABEL, name: str = "accuracy", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.ignored_label = ignored_label

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        labels = ops.reshape(ops.cast(y_true, "int32"), ops.shape(y_pred)[:-1])
        right = ops.cast(ops.argmax(y_pred, axis=-1), "int32") == labels
        weights = ops.cast(labels != self.ignored_label, "float32")
        if sample_weight is not None:
            weights = weights * _pixel_weights(sample_weight, y_pred)
        counts = [ops.sum(ops.cast(right, "float32") * weights), ops.sum(weights)]
        right, known = ops.unstack(replicas.total(ops.stack(counts)), axis=0)
        super().update_state(right / ops.maximum(known, 1e-12), sample_weight=known)

    def get_config(self) -> Config:
        return {**super().get_config(), "ignored_label": self.ignored_label}
