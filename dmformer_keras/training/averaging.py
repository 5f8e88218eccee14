"""The moving average of a model's weights, and the BatchNorm statistics that belong to it."""

import contextlib
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from dmformer_keras.checks import is_finite_number, shown
from dmformer_keras.errors import DMFormerError
from dmformer_keras.layers import StochasticDepth
from dmformer_keras.layers.backend_paths import no_gradients
from dmformer_keras.type_names import Images


@contextlib.contextmanager
def averaged_weights(model):
    """In this context the moving averages replace a model's weights."""
    if not keeps_average(model):
        yield
        return
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    variables = model.trainable_variables
    own = [ops.convert_to_numpy(variable) for variable in variables]
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        # A copy, because JAX donates the arrays of a model's weights when it predicts.
        variable.assign(ops.convert_to_numpy(average))
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


def keeps_average(model):
    """Tells whether the optimizer of a compiled model averages the weights."""
    return bool(getattr(model.optimizer, "inner_optimizer", model.optimizer).use_ema)


def warm_up_average(optimizer):
    """Lets a moving average forget the initial weights, however short the training is.

    After `t` updates its momentum is `(1 + t) / (10 + t)`, until that reaches `ema_momentum`.

    Source: TensorFlow's `ExponentialMovingAverage(num_updates=...)`.
    """
    move = optimizer._update_model_variables_moving_average

    def move_warmed_up(variables):
        momentum = optimizer.ema_momentum
        updates = ops.cast(optimizer.iterations, "float32")
        # Keras updates the average after every batch, but an update may take several batches.
        batches = optimizer.gradient_accumulation_steps or 1
        warming = ((1 + updates) / (10 + updates)) ** (1 / batches)
        optimizer.ema_momentum = ops.minimum(momentum, warming)
        try:
            move(variables)
        finally:
            optimizer.ema_momentum = momentum

    # Patched on this optimizer, because a subclass is slower under PyTorch.
    optimizer._update_model_variables_moving_average = move_warmed_up


def average_weights(
    model: keras.Model, other: keras.Model, share: float = 0.5, batches: Iterable[Images] = ()
) -> None:
    """Moves a model's weights towards those of another, and estimates its statistics anew.

    For two trainings of one model, one of which went on from the other: a model between the two
    often keeps what each is better at. Trainings from different random weights can't be averaged.

    Args:
        model: keras.Model, changed in place.
        other: keras.Model with weights of the same shapes, which stays as it is.
        share: float in [0, 1], of the other's weights.
        batches: iterable of arrays `(number, height, width, channels)`, training images as the
            model takes them, for the statistics of BatchNorm. Without any, those are averaged, too.

    Raises:
        DMFormerError: `share` is outside its range, or the models differ in the shapes of their
            weights, or in their classes.

    Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", and for the statistics
    Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".

    Example:

    >>> import dmformer_keras
    >>> one, other = (
    ...     dmformer_keras.DMFormerN(input_shape=(32, 32, 3), num_classes=2) for _ in range(2)
    ... )
    >>> images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    >>> average_weights(one, other, share=0.25, batches=[images])
    """
    if not is_finite_number(share) or not 0 <= share <= 1:
        raise DMFormerError(f"share must be a number from 0 to 1, not {shown(share)}.")
    pairs = list(zip(model.weights, other.weights, strict=False))
    if len(model.weights) != len(other.weights) or any(a.shape != b.shape for a, b in pairs):
        raise DMFormerError(
            "average_weights takes two models whose weights have the same shapes; give two "
            "trainings of one model."
        )
    names, other_names = (getattr(one, "class_names", None) for one in (model, other))
    if names and other_names and list(names) != list(other_names):
        raise DMFormerError(
            "average_weights takes two models of the same classes in the same order; give two "
            "trainings of one model."
        )
    for own, others in pairs:
        if keras.backend.is_float_dtype(own.dtype):
            own.assign((1 - share) * own + share * ops.cast(others, own.dtype))
    estimate_statistics(model, batches)


def estimate_statistics(model, batches):
    """Sets the running statistics of every BatchNorm to their means over some batches; returns a
    list of arrays, the new statistics: see `statistics_values`.

    The statistics that training keeps are those of the weights as they moved; averaged weights need
    their own. Nothing is dropped meanwhile, as at inference. Frozen layers keep theirs.

    Source: Izmailov et al. 2018 (stochastic weight averaging, `update_bn`).

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(32, 32, 3), num_classes=2)
    >>> images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    >>> before = statistics_values(model)
    >>> after = estimate_statistics(model, [images, images])
    >>> all((one != other).any() for one, other in zip(before, after))
    True
    """
    norms = _norms(model)
    droppers = [layer for layer in _layers(model) if isinstance(layer, _DROPPERS)]
    momenta = [norm.momentum for norm in norms]
    rates = [layer.rate for layer in droppers]
    try:
        for layer in droppers:
            layer.rate = 0.0
        for number, images in enumerate(batches):
            for norm in norms:
                norm.momentum = number / (number + 1)  # the mean of all batches so far
            with no_gradients():
                model(images, training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for layer, rate in zip(droppers, rates, strict=True):
            layer.rate = rate
    return statistics_values(model)


def statistics_values(model):
    """Returns copies, as arrays, of the running means and variances of a model's BatchNorms."""
    return [np.array(ops.convert_to_numpy(variable)) for variable in _statistics(model)]


def _statistics(model):
    return [
        variable for norm in _norms(model) for variable in (norm.moving_mean, norm.moving_variance)
    ]


@contextlib.contextmanager
def statistics_set(model, values):
    """Sets the running statistics of a model for the time of a block."""
    variables, own = _statistics(model), statistics_values(model)
    _assign(variables, values)
    try:
        yield
    finally:
        _assign(variables, own)


_DROPPERS = (StochasticDepth, keras.layers.Dropout)


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _norms(model):
    norms = (
        layer for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    )
    return [norm for norm in norms if norm.trainable]


def _layers(model):
    return list(model._flatten_layers(include_self=False))
