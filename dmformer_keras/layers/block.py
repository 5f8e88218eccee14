"""The DMFormer block: a transformer block with attention replaced by DMA."""

from typing import Any

import keras

from dmformer_keras.checks import (
    check_activation,
    check_bool,
    check_positive_int,
    is_finite_number,
    plain_number,
)
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.layers.attention import DEFAULT_LEVELS, DynamicMultilevelAttention, check_levels
from dmformer_keras.layers.checkpointing import checkpointed_call
from dmformer_keras.layers.common import (
    batch_norm,
    channel_axis,
    pointwise_convolution,
    standard_data_format,
)
from dmformer_keras.layers.stochastic_depth import StochasticDepth
from dmformer_keras.type_names import Config, InputShape, Levels, Tensor

MOST_MLP_RATIO = 64
MOST_LAYER_SCALE = 1e30  # well within float32


@keras.saving.register_keras_serializable(package="dmformer_keras")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a learned factor that starts small.

    Source: Touvron et al. 2021, "Going deeper with Image Transformers".

    Args:
        initial_value: float. Where every factor starts.
        axis: int. The channels' axis.
        **kwargs: the usual arguments of `keras.layers.Layer`.

    Input shape: any with a known size on `axis`. Output shape: the same.

    Example:

    >>> import numpy as np
    >>> scaled = LayerScale(0.5)(np.ones((1, 2, 2, 3), "float32"))
    >>> float(scaled[0, 0, 0, 0])
    0.5
    """

    def __init__(self, initial_value: float, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_value = initial_value
        self.axis = axis

    def build(self, input_shape: InputShape) -> None:
        shape: list[int | None] = [1] * len(input_shape)
        shape[self.axis] = input_shape[self.axis]
        self.scale = self.add_weight(
            shape=tuple(shape[1:]),
            initializer=keras.initializers.Constant(self.initial_value),
            name="scale",
        )

    def call(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "initial_value": self.initial_value, "axis": self.axis}


@keras.saving.register_keras_serializable(package="dmformer_keras")
class DMFormerBlock(keras.layers.Layer):
    """One DMFormer block: a token mixer, then a channel MLP, each on a residual branch.

        x = x + DMA(BatchNorm(x))
        x = x + Conv1x1(GELU(Conv1x1(BatchNorm(x))))

    Source: the "overall architecture of vision transformers" of the paper's
    abstract. This project's decisions: BatchNorm as the norm, an MLP ratio of
    4, stochastic depth on both branches, LayerScale optional.

    Args:
        levels, gate_reduction, use_gate, inner_residual: as in
            `DynamicMultilevelAttention`.
        mlp_ratio: int or float. Hidden channels of the MLP over its input channels.
        activation: name of a Keras activation for the MLP; `"gelu"` is the exact one.
        stochastic_depth: float in `[0, 1)`. Probability of dropping each branch.
        layer_scale: float or `None`. Initial value of LayerScale; `None` leaves it out.
        gradient_checkpointing: bool. Whether training computes the block's activations
            again in the backward pass, which spares the memory that holds them.
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's setting.
        **kwargs: the usual arguments of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`, or channels_first.
    Output shape: the same.

    Raises:
        DMFormerError: if an argument is invalid.

    Example:

    >>> import numpy as np
    >>> block = DMFormerBlock(levels=((3, 1), (7, 3)), layer_scale=1e-2)
    >>> tuple(block(np.ones((1, 8, 8, 16), "float32")).shape)
    (1, 8, 8, 16)
    """

    def __init__(
        self,
        levels: Levels = DEFAULT_LEVELS,
        gate_reduction: int = 4,
        use_gate: bool = True,
        inner_residual: bool = True,
        mlp_ratio: float = 4,
        activation: str = "gelu",
        stochastic_depth: float = 0.0,
        layer_scale: float | None = None,
        gradient_checkpointing: bool = False,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.levels = check_levels(levels)
        self.gate_reduction = check_positive_int("gate_reduction", gate_reduction)
        self.use_gate = check_bool("use_gate", use_gate)
        self.inner_residual = check_bool("inner_residual", inner_residual)
        self.mlp_ratio = check_mlp_ratio(mlp_ratio)
        self.activation = check_activation(activation)
        self.stochastic_depth = stochastic_depth
        self.layer_scale = check_layer_scale(layer_scale)
        self.gradient_checkpointing = check_bool("gradient_checkpointing", gradient_checkpointing)
        self.data_format = standard_data_format(data_format)
        common = {"data_format": self.data_format, "dtype": self.dtype_policy}
        self.attention_norm = batch_norm("attention_norm", **common)
        self.attention = self.make_mixer(
            levels=self.levels,
            gate_reduction=self.gate_reduction,
            use_gate=self.use_gate,
            inner_residual=self.inner_residual,
            name="attention",
            **common,
        )
        self.mlp_norm = batch_norm("mlp_norm", **common)
        self.attention_drop = self._drop("attention_drop")
        self.mlp_drop = self._drop("mlp_drop")

    def make_mixer(self, **arguments: Any) -> keras.layers.Layer:
        """Returns the layer that mixes positions, the block's `attention`.

        A subclass returns another layer, with a `get_config`, that gives features of the shape
        that it takes. Registered with `keras.saving.register_keras_serializable`, the subclass
        is saved and loaded like this class; a backbone has it as its `block_class`.

        Args:
            **arguments: `levels`, `gate_reduction`, `use_gate` and `inner_residual` of the
                block, and `data_format`, `dtype` and `name`.

        Returns:
            `keras.layers.Layer`.
        """
        return DynamicMultilevelAttention(**arguments)

    def _drop(self, name):
        return StochasticDepth(self.stochastic_depth, dtype=self.dtype_policy, name=name)

    def _scale(self, name):
        axis = channel_axis(self.data_format)
        return LayerScale(self.layer_scale, axis=axis, dtype=self.dtype_policy, name=name)

    def build(self, input_shape: InputShape) -> None:
        axis = channel_axis(self.data_format)
        channels = input_shape[axis]
        hidden_shape = list(input_shape)
        hidden_shape[axis] = max(int(channels * self.mlp_ratio), 1)

        common = {"data_format": self.data_format, "dtype": self.dtype_policy}
        self.mlp_expand = pointwise_convolution(
            hidden_shape[axis], "mlp_expand", activation=self.activation, **common
        )
        self.mlp_project = pointwise_convolution(channels, "mlp_project", **common)
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp_expand):
            layer.build(input_shape)
        self.mlp_project.build(tuple(hidden_shape))
        if self.layer_scale is not None:
            self.attention_scale = self._scale("attention_scale")
            self.mlp_scale = self._scale("mlp_scale")
            self.attention_scale.build(input_shape)
            self.mlp_scale.build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if training and self.gradient_checkpointing:
            return checkpointed_call(self, lambda x: self._branches(x, training), inputs)
        return self._branches(inputs, training)

    def _branches(self, inputs, training):
        branch = self.attention_norm(inputs, training=training)
        branch = self.attention(branch, training=training)
        if self.layer_scale is not None:
            branch = self.attention_scale(branch)
        x = inputs + self.attention_drop(branch, training=training)

        branch = self.mlp_norm(x, training=training)
        # Given to each layer: in the second run of gradient checkpointing Keras has lost it.
        branch = self.mlp_expand(branch, training=training)
        branch = self.mlp_project(branch, training=training)
        if self.layer_scale is not None:
            branch = self.mlp_scale(branch)
        return x + self.mlp_drop(branch, training=training)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return input_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "levels": self.levels,
            "gate_reduction": self.gate_reduction,
            "use_gate": self.use_gate,
            "inner_residual": self.inner_residual,
            "mlp_ratio": self.mlp_ratio,
            "activation": self.activation,
            "stochastic_depth": self.stochastic_depth,
            "layer_scale": self.layer_scale,
            "gradient_checkpointing": self.gradient_checkpointing,
            "data_format": self.data_format,
        }


def check_mlp_ratio(mlp_ratio):
    """Returns the ratio of an MLP's hidden channels, or raises if it is no number in (0, 64]."""
    if not is_finite_number(mlp_ratio) or not 0 < mlp_ratio <= MOST_MLP_RATIO:
        raise DMFormerError(
            f"mlp_ratio must be a number over 0 and at most {MOST_MLP_RATIO}, not "
            f"{shown(mlp_ratio)}."
        )
    return plain_number(mlp_ratio)


def check_layer_scale(layer_scale):
    """Returns where LayerScale starts, or raises if it is neither a number nor None."""
    if layer_scale is None:
        return None
    if not is_finite_number(layer_scale) or abs(layer_scale) > MOST_LAYER_SCALE:
        raise DMFormerError(f"layer_scale must be a number or None, not {shown(layer_scale)}.")
    return plain_number(layer_scale)
