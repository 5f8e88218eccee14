"""The loss, the schedule and the optimizer that a recipe describes."""

import keras


@keras.saving.register_keras_serializable(package="dmformer_keras")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits with class numbers as targets and label smoothing.

    Args:
        label_smoothing: float in `[0, 1)`. The share of the target spread over all classes.
        **kwargs: the usual arguments of `keras.losses.Loss`.

    Targets: `(batch,)` ints. Predictions: `(batch, classes)` logits.

    Example:

    >>> import numpy as np
    >>> loss = SmoothedCrossEntropy(label_smoothing=0.0)
    >>> round(float(loss(np.array([1]), np.zeros((1, 4), "float32"))), 4)  # log(4)
    1.3863
    """

    def __init__(self, label_smoothing=0.0, name="smoothed_cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        classes = y_pred.shape[-1]
        # Keras casts targets to the loss's float dtype before this call.
        one_hot = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), classes, dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            one_hot, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def learning_rate_schedule(recipe, steps_per_epoch):
    """Linear from 0 to the peak over the warm-up, then a cosine to 0 at the last step.

    Args:
        recipe: Recipe.
        steps_per_epoch: int, positive.

    Returns:
        `keras.optimizers.schedules.CosineDecay`.

    Example:

    >>> from dmformer_keras.training import Recipe
    >>> schedule = learning_rate_schedule(Recipe(epochs=10, learning_rate=0.5), 100)
    >>> [round(float(schedule(step)), 2) for step in (0, 50, 100, 550, 1000)]
    [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    steps = recipe.epochs * steps_per_epoch
    warmup_steps = round(recipe.warmup * steps_per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else recipe.learning_rate,
        # Keras counts the decay from the end of the warm-up, and divides by it.
        decay_steps=max(1, steps - warmup_steps),
        warmup_target=recipe.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def compile_for(recipe, model, steps_per_epoch):
    """Compiles a model with the recipe's loss and optimizer, the optimizer's state built.

    Args:
        recipe: Recipe.
        model: `keras.Model` with logits as outputs.
        steps_per_epoch: int, positive.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate_schedule(recipe, steps_per_epoch),
        weight_decay=recipe.weight_decay,
        global_clipnorm=recipe.clip_norm,
    )
    optimizer.exclude_from_weight_decay(
        var_list=[weight for weight in model.trainable_variables if weight.name != "kernel"]
    )
    model.compile(
        optimizer=optimizer,
        loss=SmoothedCrossEntropy(recipe.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    # Built here, so that a checkpoint finds the variables that it restores.
    model.optimizer.build(model.trainable_variables)
