"""Stochastic depth: whole residual branches dropped at random in training."""

from typing import Any

import keras
from keras import ops

from dmformer_keras.checks import check_rate
from dmformer_keras.type_names import Config, InputShape, Tensor


@keras.saving.register_keras_serializable(package="dmformer_keras")
class StochasticDepth(keras.layers.Layer):
    """Drops a residual branch for a random part of the batch while training.

    Each example's branch is set to zero with probability `rate` and otherwise
    divided by `1 - rate`, so that the expected value is unchanged. At inference, and
    where it is frozen (`trainable=False`), the layer is the identity. Put it on the
    branch, just before the addition.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth".

    Args:
        rate: float in `[0, 1)`. Probability of dropping the branch.
        seed: int or `None`. Seed of the layer's random numbers.
        **kwargs: the usual arguments of `keras.layers.Layer`.

    Input shape: `(batch, ...)`. Output shape: the same.

    Raises:
        DMFormerError: if `rate` is not in `[0, 1)`.

    Example:

    >>> import numpy as np
    >>> branch = np.ones((4, 2, 2, 3), "float32")
    >>> layer = StochasticDepth(0.5, seed=1)
    >>> kept = keras.ops.convert_to_numpy(layer(branch, training=False))
    >>> bool((kept == branch).all())
    True
    >>> dropped = keras.ops.convert_to_numpy(layer(branch, training=True))
    >>> set(dropped.ravel().tolist()) <= {0.0, 2.0}
    True
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or not self.trainable or self.rate == 0.0:
            return inputs
        keep = 1.0 - self.rate
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        # Drawn in float32: in float16 a small rate would be rounded.
        uniform = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        kept = ops.cast(uniform < keep, inputs.dtype)
        return inputs * kept / ops.cast(keep, inputs.dtype)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
