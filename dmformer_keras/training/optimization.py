"""The schedule and the optimizer that a recipe describes."""

import keras
from keras import ops

from dmformer_keras.training.averaging import warm_up_average
from dmformer_keras.training.grouped_updates import parameter_groups, with_parameter_groups
from dmformer_keras.training.muon import GroupedMuon


@keras.saving.register_keras_serializable(package="dmformer_keras")
class PolynomialDecayWithWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to the peak over the warm-up, then `peak * (1 - progress) ** power`.

    `steps` include those of the warm-up; later steps have the rate 0. The decay is that of ParseNet
    (Liu et al. 2015); Keras's own `PolynomialDecay` has no warm-up.

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


# Made here, so that Keras finds it in the file of a checkpoint.
GroupedAdamW = with_parameter_groups(keras.optimizers.AdamW)


@keras.saving.register_keras_serializable(package="dmformer_keras")
class ReplicatedAdamW(GroupedAdamW):  # type: ignore[valid-type, misc]
    """AdamW for a model that `tf.distribute` copies: it clips the sum of all copies' gradients.

    Keras clips each copy's gradients, and sums them afterwards.
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
    if recipe.schedule == "polynomial":
        return PolynomialDecayWithWarmup(peak, steps, warmup_steps, recipe.power)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        # Keras counts the decay from the end of the warm-up, and divides by it.
        decay_steps=max(1, steps - warmup_steps),
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def compile_for(recipe, model, steps_per_epoch, loss, metrics, optimizer_class=None):
    """Compiles a model with a loss and the recipe's optimizer, the optimizer's state built."""
    settings = {"weight_decay": recipe.weight_decay, "global_clipnorm": recipe.clip_norm}
    if recipe.accumulate > 1:
        settings["gradient_accumulation_steps"] = recipe.accumulate
    if recipe.ema is not None:
        momentum = recipe.ema ** (1 / recipe.accumulate)  # a batch, see `warm_up_average`
        settings |= {"use_ema": True, "ema_momentum": momentum}
    schedule = learning_rate_schedule(recipe, steps_per_epoch)
    optimizer = (optimizer_class or _optimizer_class(recipe))(schedule, **settings)
    if recipe.ema is not None:
        warm_up_average(optimizer)
    groups = parameter_groups(model, recipe.layer_decay)
    if hasattr(optimizer, "set_groups"):
        optimizer.set_groups(groups)
    else:
        kept = [weight for group in groups if not group.weight_decay for weight in group.weights]
        optimizer.exclude_from_weight_decay(var_list=kept)
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)
    # Built here, so that a checkpoint finds the variables that it restores.
    model.optimizer.build(model.trainable_variables)


def _optimizer_class(recipe):
    if recipe.optimizer == "muon":
        return GroupedMuon
    # Under PyTorch, Keras updates all weights at once, but in its own classes only.
    return keras.optimizers.AdamW if recipe.layer_decay == 1 else GroupedAdamW
