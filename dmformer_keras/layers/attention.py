"""Dynamic Multi-level Attention (DMA), the token mixer of DMFormer."""

from typing import Any

import keras
from keras import ops

from dmformer_keras.checks import check_bool, check_positive_int, is_positive_int
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.layers.common import (
    batch_norm,
    channel_axis,
    pointwise_convolution,
    pointwise_initializer,
    refuse_quantize,
    spatial_axes,
    spatial_initializer,
    standard_data_format,
)
from dmformer_keras.layers.convolution import DepthwiseConvolution
from dmformer_keras.type_names import Config, InputShape, Levels, Tensor

DEFAULT_LEVELS = ((3, 1), (5, 2), (7, 3))
# What is larger is a slip.
MOST_LEVELS = 16
MOST_KERNEL = 127
MOST_DILATION = 256


@keras.saving.register_keras_serializable(package="dmformer_keras")
class DynamicMultilevelAttention(keras.layers.Layer):
    """Dynamic Multi-level Attention: convolutions of several scales behind a gate.

    With `C` input channels and `N` levels, for an already normalized input `X`:

        H      = Conv1x1(X)                                C -> N * C channels
        H_i    = DepthwiseConv(kernel_i, dilation_i)(i-th group of C channels of H)
        X'     = X + Conv1x1(ReLU(BatchNorm(concat(H_1, ..., H_N))))   N * C -> C
        A      = Sigmoid(FC(ReLU(FC(GlobalAveragePool(X)))))           C -> C / r -> C
        output = A * Conv1x1(X')

    *Multi-level*: each level sees patterns of its own scale. *Dynamic*: the gate
    `A` weighs the output channels by what the input holds.

    Source: Wei et al., "DMFormer: Closing the Gap Between CNN and Vision
    Transformers" (arXiv 2209.07738): the parallel depthwise convolutions
    3x3/dilation 1, 5x5/dilation 2 and 7x7/dilation 3, BatchNorm and ReLU after
    them, the inner residual, and the formulas of the gate. This project's
    decisions, where the paper is not known to say: one group of `C` channels a
    level, a gate reduction of 4, no bias before a BatchNorm.

    Args:
        levels: sequence of `(kernel_size, dilation)` pairs of positive ints, one
            for each level; kernel sizes are odd. One pair gives the single-level
            ablation.
        gate_reduction: positive int `r`. The gate's hidden layer has
            `max(C // r, 1)` units.
        use_gate: bool. `False` leaves the gate out (ablation).
        inner_residual: bool. `False` leaves `X +` out of `X'` (ablation).
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's
            setting.
        **kwargs: the usual arguments of `keras.layers.Layer`.

    Input shape: `(batch, height, width, C)` for channels_last or
    `(batch, C, height, width)`; height and width may be dynamic.
    Output shape: the same.

    Raises:
        DMFormerError: if `levels`, `gate_reduction` or `data_format` is invalid.

    Example:

    >>> import numpy as np
    >>> layer = DynamicMultilevelAttention()
    >>> features = np.random.default_rng(0).normal(size=(2, 14, 9, 32)).astype("float32")
    >>> tuple(layer(features).shape)
    (2, 14, 9, 32)
    """

    def __init__(
        self,
        levels: Levels = DEFAULT_LEVELS,
        gate_reduction: int = 4,
        use_gate: bool = True,
        inner_residual: bool = True,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.levels = check_levels(levels)
        self.gate_reduction = check_positive_int("gate_reduction", gate_reduction)
        self.use_gate = check_bool("use_gate", use_gate)
        self.inner_residual = check_bool("inner_residual", inner_residual)
        self.data_format = standard_data_format(data_format)

    def build(self, input_shape: InputShape) -> None:
        axis = channel_axis(self.data_format)
        channels = input_shape[axis]
        expanded_shape = list(input_shape)
        expanded_shape[axis] = channels * len(self.levels)

        common = {"data_format": self.data_format, "dtype": self.dtype_policy}
        self.expand = pointwise_convolution(
            expanded_shape[axis], "expand", use_bias=False, **common
        )
        self.depthwise = [
            DepthwiseConvolution(
                kernel_size,
                padding="same",
                dilation_rate=dilation,
                use_bias=False,
                depthwise_initializer=spatial_initializer(),
                name=f"level{index}",
                **common,
            )
            for index, (kernel_size, dilation) in enumerate(self.levels, start=1)
        ]
        self.norm = batch_norm("norm", **common)
        self.fuse = pointwise_convolution(channels, "fuse", **common)
        self.project = pointwise_convolution(channels, "project", **common)

        for layer in (self.expand, *self.depthwise, self.project):
            layer.build(input_shape)
        for layer in (self.norm, self.fuse):
            layer.build(tuple(expanded_shape))
        if self.use_gate:
            self._build_gate(channels)

    def _build_gate(self, channels):
        hidden = max(channels // self.gate_reduction, 1)
        self.gate_reduce = self._dense(hidden, "relu", "gate_reduce")
        self.gate_expand = self._dense(channels, "sigmoid", "gate_expand")
        self.gate_reduce.build((None, channels))
        self.gate_expand.build((None, hidden))

    def _dense(self, units, activation, name):
        dense = keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=pointwise_initializer(),
            dtype=self.dtype_policy,
            name=name,
        )
        # `quantize` of a model around this layer reaches it, and no file would say so.
        dense.quantize = refuse_quantize
        return dense

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        axis = channel_axis(self.data_format)
        groups = ops.split(self.expand(inputs), len(self.levels), axis=axis)
        levels = [layer(group) for layer, group in zip(self.depthwise, groups, strict=True)]
        mixed = ops.relu(self.norm(ops.concatenate(levels, axis=axis), training=training))
        mixed = self.fuse(mixed)
        if self.inner_residual:
            mixed = inputs + mixed
        outputs = self.project(mixed)
        return outputs * self.gate(inputs) if self.use_gate else outputs

    def gate(self, inputs: Tensor) -> Tensor:
        """Returns the gate's values, which multiply the output channels.

        Args:
            inputs: tensor of the layer's input shape.

        Returns:
            Tensor with values in `(0, 1)` that broadcasts against the output:
            `(batch, 1, 1, C)`, or `(batch, C, 1, 1)` for channels_first.
        """
        pooled = ops.mean(inputs, axis=spatial_axes(self.data_format))
        gate = self.gate_expand(self.gate_reduce(pooled))
        for axis in spatial_axes(self.data_format):
            gate = ops.expand_dims(gate, axis)
        return gate

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return input_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "levels": self.levels,
            "gate_reduction": self.gate_reduction,
            "use_gate": self.use_gate,
            "inner_residual": self.inner_residual,
            "data_format": self.data_format,
        }


def check_levels(levels):
    """Returns `levels` as a tuple of `(kernel_size, dilation)` pairs, or raises."""
    message = (
        f"levels must be a sequence of 1 to {MOST_LEVELS} (kernel_size, dilation) pairs of "
        f"positive integers with odd kernel sizes, such as {DEFAULT_LEVELS}, not {shown(levels)}."
    )
    try:
        few = 1 <= len(levels) <= MOST_LEVELS
        pairs = tuple((kernel_size, dilation) for kernel_size, dilation in levels) if few else ()
    except (TypeError, ValueError):
        raise DMFormerError(message) from None
    valid = all(is_positive_int(k) and k % 2 == 1 and is_positive_int(d) for k, d in pairs)
    if not pairs or not valid:
        raise DMFormerError(message)
    if any(k > MOST_KERNEL or d > MOST_DILATION for k, d in pairs):
        raise DMFormerError(
            f"levels must have kernel sizes of at most {MOST_KERNEL} and dilations of at most "
            f"{MOST_DILATION}, not {shown(levels)}."
        )
    return tuple((int(k), int(d)) for k, d in pairs)
