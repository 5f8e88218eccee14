"""The schedule and the optimizer that a recipe describes."""

import contextlib

import keras
from keras import ops

from dmformer_keras.training.layer_depths import layer_depths


@keras.saving.register_keras_serializable(package="dmformer_keras")
class PolynomialDecayWithWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to the peak over the warm-up, then `peak * (1 - progress) ** power`.

    Source: Liu et al. 2015 (ParseNet) for the decay; Keras's own `PolynomialDecay` has no
    warm-up.

    Args:
        learning_rate: float. The peak.
        steps: int. All steps, those of the warm-up included; later ones have the rate 0.
        warmup_steps: int.
        power: float. 1 is linear.

    Example:

    >>> schedule = PolynomialDecayWithWarmup(0.5, steps=110, warmup_steps=10, power=1.0)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.25, 0.5, 0.25, 0.0]
    """

    def __init__(self, learning_rate, steps, warmup_steps=0, power=0.9):
        super().__init__()
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.power = power

    def __call__(self, step):
        step = ops.cast(step, "float32")
        progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        decayed = (1.0 - ops.clip(progress, 0.0, 1.0)) ** self.power
        warming = step / max(self.warmup_steps, 1)
        factor = ops.where(step < self.warmup_steps, warming, decayed)
        return self.learning_rate * factor

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
        }


@keras.saving.register_keras_serializable(package="dmformer_keras")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate each weight multiplies by a factor of its own.

    The weight decay, which AdamW multiplies by the learning rate, follows.

    Args:
        *args, **kwargs: as in `keras.optimizers.AdamW`.

    Example:

    >>> weight = keras.Variable([1.0, 1.0], name="kernel")
    >>> optimizer = LayerwiseAdamW(learning_rate=0.1, weight_decay=0.0)
    >>> optimizer.set_factors([(weight, 0.5)])
    >>> optimizer.apply([ops.convert_to_tensor([1.0, 1.0])], [weight])
    >>> round(float(weight[0]), 3)
    0.95
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._factors = {}

    def set_factors(self, factors):
        """Sets the factors; a weight that is not named has the factor 1.

        Args:
            factors: list of (weight, float).
        """
        self._factors = {self._var_key(weight): float(factor) for weight, factor in factors}

    def _factor(self, variable):
        return self._factors.get(self._var_key(variable), 1.0)

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = learning_rate * self._factor(variable)
        if self.weight_decay and self._use_weight_decay(variable):
            decay = ops.cast(self.weight_decay * learning_rate, variable.dtype)
            self.assign_sub(variable, variable * decay)
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        """Nothing: Keras decays all weights at one learning rate before the update."""


@keras.saving.register_keras_serializable(package="dmformer_keras")
class ReplicatedAdamW(LayerwiseAdamW):
    """AdamW of a model that `tf.distribute` copies: clips what all copies' gradients sum to.

    Keras clips each copy's own, and sums afterwards.

    Args:
        *args, **kwargs: as in `keras.optimizers.AdamW`.
    """

    def apply(self, grads, trainable_variables=None):
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if replica is not None:
            grads = replica.all_reduce(tf.distribute.ReduceOp.SUM, grads)
        super().apply(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """As they are: `apply` has summed them."""
        return grads_and_vars


def learning_rate_schedule(recipe, steps_per_epoch):
    """Linear from 0 to the peak over the warm-up, then the recipe's decay to 0.

    Args:
        recipe: Recipe or SegmentationRecipe.
        steps_per_epoch: int, positive.

    Returns:
        `keras.optimizers.schedules.LearningRateSchedule`.

    Example:

    >>> from dmformer_keras.training import Recipe
    >>> schedule = learning_rate_schedule(Recipe(epochs=10, learning_rate=0.5), 100)
    >>> [round(float(schedule(step)), 2) for step in (0, 50, 100, 550, 1000)]
    [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    # Keras asks a schedule by batches, even where several make one update.
    steps = recipe.epochs * steps_per_epoch
    warmup_steps = round(recipe.warmup * steps_per_epoch)
    peak = recipe.peak_learning_rate
    if getattr(recipe, "schedule", "cosine") == "polynomial":
        return PolynomialDecayWithWarmup(peak, steps, warmup_steps, recipe.power)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        # Keras counts the decay from the end of the warm-up, and divides by it.
        decay_steps=max(1, steps - warmup_steps),
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


@contextlib.contextmanager
def averaged_weights(model):
    """Puts the moving averages in the place of a model's weights, for the time of a block.

    Args:
        model: compiled `keras.Model`; nothing is done where its optimizer keeps no average.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    variables = model.trainable_variables
    own = [ops.convert_to_numpy(variable) for variable in variables]
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        # A copy: JAX gives the arrays of a model's weights away when it predicts.
        variable.assign(ops.convert_to_numpy(average))
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


def compile_for(recipe, model, steps_per_epoch, loss, metrics, optimizer_class=None):
    """Compiles a model with a loss and the recipe's optimizer, the optimizer's state built.

    Args:
        recipe: Recipe or SegmentationRecipe.
        model: `keras.Model` with logits as outputs.
        steps_per_epoch: int, positive.
        loss: `keras.losses.Loss`.
        metrics: list of `keras.metrics.Metric`.
        optimizer_class: subclass of LayerwiseAdamW, or None for what the recipe needs.
    """
    settings = {"weight_decay": recipe.weight_decay, "global_clipnorm": recipe.clip_norm}
    if recipe.accumulate > 1:
        settings["gradient_accumulation_steps"] = recipe.accumulate
    if recipe.ema is not None:
        # Keras moves the average with every batch, several of which may make one update.
        momentum = recipe.ema ** (1 / recipe.accumulate)
        settings |= {"use_ema": True, "ema_momentum": momentum}
    schedule = learning_rate_schedule(recipe, steps_per_epoch)
    if optimizer_class is None:
        optimizer_class = keras.optimizers.AdamW if recipe.layer_decay == 1 else LayerwiseAdamW
    optimizer = optimizer_class(schedule, **settings)
    if recipe.layer_decay != 1:
        depths = layer_depths(model)
        last = max(depth for _, depth in depths)
        optimizer.set_factors(
            [(weight, recipe.layer_decay ** (last - depth)) for weight, depth in depths]
        )
    optimizer.exclude_from_weight_decay(
        var_list=[weight for weight in model.trainable_variables if weight.name != "kernel"]
    )
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)
    # Built here, so that a checkpoint finds the variables that it restores.
    model.optimizer.build(model.trainable_variables)
