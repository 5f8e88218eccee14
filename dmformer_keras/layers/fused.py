"""The layers of the inference form, in which every BatchNorm is folded into its neighbors.

`dmformer_keras.fuse` makes them and gives them their weights.
"""

from typing import Any

import keras
from keras import ops

from dmformer_keras.layers import backend_paths
from dmformer_keras.layers.attention import DEFAULT_LEVELS, DynamicMultilevelAttention
from dmformer_keras.layers.common import channel_axis, standard_data_format
from dmformer_keras.layers.convolution import (
    Convolution,
    DepthwiseConvolution,
    PositionwiseDense,
)
from dmformer_keras.type_names import Config, InputShape, Levels, Tensor


@keras.saving.register_keras_serializable(package="dmformer_keras")
class ScaleAndOffset(keras.layers.Layer):
    """Multiplies each channel by a factor and adds an offset: a BatchNorm at inference.

    Args:
        axis: int. The channels' axis.
        **kwargs: the usual arguments of `keras.layers.Layer`.

    Input shape: any with a known size on `axis`. Output shape: the same.

    Example:

    >>> import numpy as np
    >>> layer = ScaleAndOffset()
    >>> features = np.ones((1, 2, 2, 3), "float32")
    >>> bool((keras.ops.convert_to_numpy(layer(features)) == features).all())
    True
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def build(self, input_shape: InputShape) -> None:
        self.scale = self.add_weight((input_shape[self.axis],), initializer="ones", name="scale")
        self.offset = self.add_weight((input_shape[self.axis],), initializer="zeros", name="offset")

    def call(self, inputs: Tensor) -> Tensor:
        shape = [1] * len(inputs.shape)
        shape[self.axis] = inputs.shape[self.axis]
        return inputs * ops.reshape(self.scale, shape) + ops.reshape(self.offset, shape)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="dmformer_keras")
class FusedMultilevelAttention(DynamicMultilevelAttention):
    """`DynamicMultilevelAttention` at inference, with the BatchNorms in and around it folded.

    With an input `X` of `C` channels, `N` levels and no norm left:

        R_i    = ReLU(DepthwiseConv(kernel_i, dilation_i)(Conv1x1_i(X)))        for each level
        Y      = Conv1x1_0(X) + Conv1x1'_1(R_1) + ... + Conv1x1'_N(R_N)
        output = A * Y, or X + A * Y with `residual=True`

    where `A` is the gate. `Y` is one linear map of the input and the levels: the 1x1
    convolution after the levels, the inner residual and the last 1x1 convolution.
    A convolution for each level, and sums, make the same values as one convolution,
    a split and a concatenation, without the copies of the last two.

    Args:
        levels, gate_reduction, use_gate, inner_residual, data_format: as in
            `DynamicMultilevelAttention`. Without an inner residual `Conv1x1_0` is left out.
        residual: bool. Whether to add the input.
        **kwargs: the usual arguments of `keras.layers.Layer`.

    Input shape: `(batch, height, width, C)`, or `(batch, C, height, width)` for
    channels_first. Output shape: the same.

    Example:

    >>> import numpy as np
    >>> layer = FusedMultilevelAttention(levels=((3, 1), (7, 3)))
    >>> tuple(layer(np.ones((1, 8, 8, 16), "float32")).shape)
    (1, 8, 8, 16)
    """

    def __init__(self, *args: Any, residual: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.residual = residual

    def build(self, input_shape: InputShape) -> None:
        channels = input_shape[channel_axis(self.data_format)]
        common = {"data_format": self.data_format, "dtype": self.dtype_policy}
        numbers = range(1, len(self.levels) + 1)
        self.expand = [pointwise(channels, f"expand{index}", **common) for index in numbers]
        self.depthwise = [
            DepthwiseConvolution(
                kernel_size,
                padding="same",
                dilation_rate=dilation,
                activation="relu",
                name=f"level{index}",
                **common,
            )
            for index, (kernel_size, dilation) in zip(numbers, self.levels, strict=True)
        ]
        # The first of the summands carries the offset of them all.
        self.direct = pointwise(channels, "direct", **common) if self.inner_residual else None
        self.project = [
            pointwise(
                channels,
                f"project{index}",
                use_bias=index == 1 and not self.inner_residual,
                **common,
            )
            for index in numbers
        ]
        for layer in (*self.expand, *self.project, *([self.direct] if self.direct else [])):
            build_pointwise(layer, channels)
        for layer in self.depthwise:
            layer.build(input_shape)
        if self.use_gate:
            self._build_gate(channels)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        flat = flatten(inputs, self.data_format)
        outputs = self.direct(flat) if self.direct else None
        for expand, depthwise, project in zip(
            self.expand, self.depthwise, self.project, strict=True
        ):
            level = unflatten(expand(flat), inputs, self.data_format)
            level = depthwise(level, training=False)
            level = project(flatten(level, self.data_format))
            outputs = level if outputs is None else outputs + level
        outputs = unflatten(outputs, inputs, self.data_format)
        if self.use_gate:
            outputs = outputs * self.gate(inputs)
        return inputs + outputs if self.residual else outputs

    def get_config(self) -> Config:
        return {**super().get_config(), "residual": self.residual}


@keras.saving.register_keras_serializable(package="dmformer_keras")
class FusedDMFormerBlock(keras.layers.Layer):
    """`DMFormerBlock` at inference: no BatchNorm, no LayerScale, no stochastic depth left.

        x = FusedMultilevelAttention(x)
        x = x + Conv1x1(GELU(Conv1x1(x)))

    `dmformer_keras.fuse` puts it in the place, and under the name, of each `DMFormerBlock`.
    A `.keras` file that holds it loads once `dmformer_keras` is imported.

    Args:
        levels, gate_reduction, use_gate, inner_residual, data_format: as in
            `DynamicMultilevelAttention`.
        mlp_ratio, activation: as in `DMFormerBlock`.
        **kwargs: the usual arguments of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`, or channels_first.
    Output shape: the same.

    Example:

    >>> import numpy as np
    >>> block = FusedDMFormerBlock(levels=((3, 1), (7, 3)))
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
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mlp_ratio = mlp_ratio
        self.activation = activation
        self.data_format = standard_data_format(data_format)
        self.attention = FusedMultilevelAttention(
            levels=levels,
            gate_reduction=gate_reduction,
            use_gate=use_gate,
            inner_residual=inner_residual,
            residual=True,
            data_format=self.data_format,
            dtype=self.dtype_policy,
            name="attention",
        )

    def build(self, input_shape: InputShape) -> None:
        channels = input_shape[channel_axis(self.data_format)]
        hidden = max(int(channels * self.mlp_ratio), 1)
        common = {"data_format": self.data_format, "dtype": self.dtype_policy}
        activation = backend_paths.exact_gelu if self.activation == "gelu" else self.activation
        self.mlp_expand = pointwise(hidden, "mlp_expand", activation=activation, **common)
        self.mlp_project = pointwise(channels, "mlp_project", **common)
        self.attention.build(input_shape)
        build_pointwise(self.mlp_expand, channels)
        build_pointwise(self.mlp_project, hidden)

    def call(self, inputs: Tensor) -> Tensor:
        x = self.attention(inputs)
        flat = flatten(x, self.data_format)
        outputs = self.mlp_project(self.mlp_expand(flat)) + flat
        return unflatten(outputs, x, self.data_format)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return input_shape

    def get_config(self) -> Config:
        attention = self.attention.get_config()
        names = ("levels", "gate_reduction", "use_gate", "inner_residual", "data_format")
        return {
            **super().get_config(),
            **{name: attention[name] for name in names},
            "mlp_ratio": self.mlp_ratio,
            "activation": self.activation,
        }


# TensorFlow on a CPU computes a matrix product, its bias and what follows it (GELU, the
# sum with a residual) in one oneDNN kernel; for a 1x1 convolution it does so only with
# ReLU. So channels_last 1x1 convolutions are dense layers on a table of all positions.
def pointwise(units, name, data_format, dtype, use_bias=True, activation=None):
    """Returns a 1x1 convolution that takes and gives what `flatten` makes of features."""
    common = {"use_bias": use_bias, "activation": activation, "dtype": dtype, "name": name}
    if data_format == "channels_last":
        return PositionwiseDense(units, **common)
    return Convolution(units, 1, data_format=data_format, **common)


def build_pointwise(layer, channels):
    """Builds what `pointwise` made, for an input of `channels` channels."""
    is_dense = isinstance(layer, keras.layers.Dense)
    layer.build((None, channels) if is_dense else (None, channels, None, None))


def flatten(features, data_format):
    """Returns features as the layers of `pointwise` take them: `(positions, channels)` mostly."""
    if data_format == "channels_first" or backend_paths.positions_stay_maps():
        return features
    return ops.reshape(features, (-1, features.shape[-1]))


def unflatten(flat, features, data_format):
    """Undoes `flatten`, to the batch, height and width of `features`."""
    if data_format == "channels_first" or backend_paths.positions_stay_maps():
        return flat
    return ops.reshape(flat, (-1, *ops.shape(features)[1:3], flat.shape[-1]))
