"""Keras's convolutions, dense layer and BatchNorm: the same weights, in the form that is fast."""

import keras
from keras import ops

from dmformer_keras.layers import backend_paths, replicas
from dmformer_keras.type_names import Tensor


@keras.saving.register_keras_serializable(package="dmformer_keras")
class Convolution(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with the same weights and values, in the form that is fast.

    See `dmformer_keras.layers.backend_paths` for what is done where, and why.

    Args:
        *args, **kwargs: as in `keras.layers.Conv2D`.

    Input and output shape: as in `keras.layers.Conv2D`.

    Example:

    >>> import numpy as np
    >>> tuple(Convolution(8, 1)(np.ones((1, 14, 14, 4), "float32")).shape)
    (1, 14, 14, 8)

    Source: this project's own; the values are Keras's.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if self.groups != 1:
            return super().call(inputs)
        inside = backend_paths.activation_inside(self.activation)
        outputs = backend_paths.convolution(
            inputs,
            ops.convert_to_tensor(self.kernel),
            ops.convert_to_tensor(self.bias) if self.use_bias else None,
            strides=self.strides,
            padding=self.padding,
            dilations=self.dilation_rate,
            data_format=self.data_format,
            training=bool(training),
            activation=inside,
        )
        return outputs if inside is self.activation else self.activation(outputs)


@keras.saving.register_keras_serializable(package="dmformer_keras")
class DepthwiseConvolution(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with the same weights and values, faster on CPUs.

    Taps that reach only padding are left out: on a map of 7 x 7, a 7x7 kernel of
    dilation 3 is a 5x5 one. The rest runs in the form that is measured fastest for
    the backend and device, see `dmformer_keras.layers.backend_paths`; on GPUs and TPUs
    it is the framework's own. Strides, "valid" padding, even kernel sizes and depth
    multipliers run as in Keras.

    Args:
        *args, **kwargs: as in `keras.layers.DepthwiseConv2D`.

    Input and output shape: as in `keras.layers.DepthwiseConv2D`.

    Example:

    >>> import numpy as np
    >>> layer = DepthwiseConvolution(7, padding="same", dilation_rate=3)
    >>> tuple(layer(np.ones((1, 14, 14, 8), "float32")).shape)
    (1, 14, 14, 8)

    Source: this project's own; the values are Keras's.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not self.keeps_size():
            return super().call(inputs)
        dilations = tuple(self.dilation_rate)
        sizes = inputs.shape[1:3] if self.data_format == "channels_last" else inputs.shape[2:4]
        inside = backend_paths.activation_inside(self.activation)
        outputs = backend_paths.depthwise_convolution(
            inputs,
            reachable_taps(ops.convert_to_tensor(self.kernel), sizes, dilations),
            ops.convert_to_tensor(self.bias) if self.use_bias else None,
            dilations=dilations,
            data_format=self.data_format,
            training=bool(training),
            activation=inside,
        )
        return outputs if inside is self.activation else self.activation(outputs)

    def keeps_size(self) -> bool:
        """Tells whether the output has the size of the input, the case that is made fast."""
        return (
            self.padding == "same"
            and self.depth_multiplier == 1
            and set(self.strides) == {1}
            and all(size % 2 == 1 for size in self.kernel_size)
        )


def reachable_taps(kernel, sizes, dilations):
    """Returns the middle of a depthwise kernel that can touch a map of these sizes.

    On a small map with "same" padding, taps far from the middle only ever see padding. `sizes` is
    `(height, width)`; a side that is not an int is unknown.
    """
    for axis, (size, dilation) in enumerate(zip(sizes, dilations, strict=True)):
        radius = kernel.shape[axis] // 2
        known = isinstance(size, int)  # else `None`, or a symbol while a model is exported
        surplus = max(radius - (size - 1) // dilation, 0) if known else 0
        if surplus:
            middle = slice(surplus, kernel.shape[axis] - surplus)
            kernel = kernel[middle] if axis == 0 else kernel[:, middle]
    return kernel


@keras.saving.register_keras_serializable(package="dmformer_keras")
class PositionwiseDense(keras.layers.Dense):
    """`keras.layers.Dense` on `(positions, channels)` in its fastest form, with the same values."""

    def call(self, inputs):
        bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
        kernel = ops.convert_to_tensor(self.kernel)
        inside = backend_paths.activation_inside(self.activation)
        outputs = backend_paths.dense(inputs, kernel, bias, activation=inside)
        return outputs if inside is self.activation else self.activation(outputs)


@keras.saving.register_keras_serializable(package="dmformer_keras")
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the same weights and values, trained faster.

    Keras spells the norm out in elementary operations; TensorFlow and PyTorch have it,
    and its gradient, as one operation, which is used in training. Where copies of a model
    are trained together, the statistics are of all their images, on every backend: as if
    one device had them.

    Args:
        *args, **kwargs: as in `keras.layers.BatchNormalization`.

    Input and output shape: as in `keras.layers.BatchNormalization`.

    Example:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(3, 2, (64, 4, 4, 8)).astype("float32")
    >>> outputs = keras.ops.convert_to_numpy(BatchNorm()(x, training=True))
    >>> bool(abs(outputs.mean()) < 1e-3), bool(abs(outputs.std() - 1) < 1e-3)
    (True, True)

    Source: this project's own; the values are Keras's.
    """

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if not (training and self._is_usual(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)
        normalize = (
            backend_paths.normalize_by_batch if replicas.count() == 1 else _normalize_by_all_batches
        )
        outputs, mean, variance = normalize(
            ops.cast(inputs, "float32"),
            ops.cast(self.gamma, "float32"),
            ops.cast(self.beta, "float32"),
            self.epsilon,
        )
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept = ops.cast(moving, "float32") * self.momentum
            moving.assign(kept + value * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def _is_usual(self, inputs, mask):
        return (
            backend_paths.HAS_FUSED_BATCH_NORM
            and self.trainable
            and self.scale
            and self.center
            and mask is None
            and not getattr(self, "renorm", False)  # Keras has it from 3.14 on
            and not self.synchronized
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype) != "float64"
        )


def _normalize_by_all_batches(inputs, scale, offset, epsilon):
    """`backend_paths.normalize_by_batch` by the statistics of all copies' batches."""
    mean, variance = replicas.moments(inputs)
    inverse = ops.rsqrt(variance + epsilon) * scale
    outputs = inputs * inverse + (offset - mean * inverse)
    return outputs, ops.stop_gradient(mean), ops.stop_gradient(variance)
