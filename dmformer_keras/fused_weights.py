"""The arithmetic of folding BatchNorms and linear maps into each other, in float64."""

import keras
import numpy as np
from keras import ops

from dmformer_keras.layers.common import channel_axis
from dmformer_keras.layers.convolution import BatchNorm, Convolution, DepthwiseConvolution
from dmformer_keras.layers.fused import (
    FusedDMFormerBlock,
    FusedMultilevelAttention,
    ScaleAndOffset,
)

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    Convolution,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D, DepthwiseConvolution)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
# Exactly these classes: one derived from them may compute something else.
NORMS = (keras.layers.BatchNormalization, BatchNorm)
LINEAR_LAYERS = (keras.layers.Dense, *_CONVOLUTIONS, *_DEPTHWISE, *_TRANSPOSED)


def norm_scale_and_offset(norm):
    """Returns what a BatchNormalization does at inference: the factor and the offset of each
    channel, float64 arrays `(channels,)`.
    """
    scale = 1.0 / np.sqrt(_float64(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * _float64(norm.gamma)
    offset = -_float64(norm.moving_mean) * scale
    return scale, offset + _float64(norm.beta) if norm.center else offset


def layer_channel_axis(layer, rank):
    """Returns the axis of the channels, from 0, of what a layer of `LINEAR_LAYERS` takes."""
    last = isinstance(layer, keras.layers.Dense) or layer.data_format == "channels_last"
    return rank - 1 if last else 1


def is_changeable(layer):
    """Tells whether a layer is linear up to its activation, with weights that may be changed."""
    if type(layer) not in LINEAR_LAYERS or getattr(layer, "lora_enabled", False):
        return False
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    if isinstance(layer, keras.layers.Dense) or layer.data_format == "channels_last":
        return True
    # Under TensorFlow, Keras 3.15 adds a channels_first bias along the width where that
    # is as long as the channels: no bias for layers that have no form of our own.
    return own_class(layer) in (Convolution, DepthwiseConvolution)


def own_class(layer):
    """Returns the class for a layer with new weights: our `Convolution` where it can be."""
    is_plain = type(layer) is keras.layers.Conv2D and layer.groups == 1
    return Convolution if is_plain else type(layer)


def takes_offset(layer):
    """Tells whether an offset of the channels of its input can pass a linear layer.

    It cannot where zeros are padded, for they have no offset.
    """
    if isinstance(layer, keras.layers.Dense):
        return True
    if type(layer) in _TRANSPOSED or getattr(layer, "groups", 1) != 1:
        return False
    return layer.padding == "valid" or set(layer.kernel_size) == {1}


class LinearWeights:
    """Kernel and bias of a layer of `LINEAR_LAYERS`.

    Args:
        layer: the layer.
        kernel: float64 array of the shape of the layer's kernel.
        bias: float64 array `(output channels,)`.
    """

    def __init__(self, layer, kernel, bias):
        self.layer = layer
        self.kernel = kernel
        self.bias = bias

    @classmethod
    def of(cls, layer):
        """Returns the present weights of a layer."""
        kernel = _float64(layer.kernel)
        if layer.use_bias:
            return cls(layer, kernel, _float64(layer.bias))
        return cls(layer, kernel, np.zeros(_output_channels(layer, kernel)))

    def then(self, scale, offset):
        """Returns the weights of this layer followed by a factor and an offset of its outputs."""
        if type(self.layer) in _TRANSPOSED:  # (..., output channels, input channels)
            kernel = self.kernel * scale[:, None]
        elif type(self.layer) in _DEPTHWISE:  # (..., input channels, outputs of each)
            kernel = self.kernel * scale.reshape(self.kernel.shape[-2:])
        else:
            kernel = self.kernel * scale
        return LinearWeights(self.layer, kernel, self.bias * scale + offset)

    def after(self, scale, offset):
        """Returns the weights of this layer behind a factor and an offset of its inputs."""
        from_offset = self.kernel * offset[:, None]
        spatial = tuple(range(self.kernel.ndim - 2))
        from_offset = from_offset.sum(axis=spatial)
        depthwise = type(self.layer) in _DEPTHWISE
        from_offset = from_offset.reshape(-1) if depthwise else from_offset.sum(axis=0)
        return LinearWeights(self.layer, self.kernel * scale[:, None], self.bias + from_offset)


def _output_channels(layer, kernel):
    if type(layer) in _DEPTHWISE:
        return kernel.shape[-2] * kernel.shape[-1]
    return kernel.shape[-2 if type(layer) in _TRANSPOSED else -1]


def scale_and_offset_layer(norm, name):
    """Returns the `ScaleAndOffset` that is a BatchNormalization at inference."""
    layer = ScaleAndOffset(axis=norm.axis, dtype=norm.dtype_policy, name=name)
    scale, offset = norm_scale_and_offset(norm)
    shape = [None] * (norm.input_spec.ndim)
    shape[norm.axis] = len(scale)
    layer.build(tuple(shape))
    layer.scale.assign(scale.astype("float32"))
    layer.offset.assign(offset.astype("float32"))
    return layer


def fused_attention(attention, name):
    """Returns the `FusedMultilevelAttention` of a `DynamicMultilevelAttention`."""
    channels = attention.project.filters
    layer = FusedMultilevelAttention(
        levels=attention.levels,
        gate_reduction=attention.gate_reduction,
        use_gate=attention.use_gate,
        inner_residual=attention.inner_residual,
        data_format=attention.data_format,
        dtype=attention.dtype_policy,
        name=name,
    )
    layer.build(_feature_shape(channels, attention.data_format))
    _set_attention_weights(layer, attention, np.ones(channels), np.zeros(channels), np.ones(1))
    return layer


def fused_block(block, name):
    """Returns the `FusedDMFormerBlock` of a `DMFormerBlock`."""
    layer = FusedDMFormerBlock(
        levels=block.attention.levels,
        gate_reduction=block.attention.gate_reduction,
        use_gate=block.attention.use_gate,
        inner_residual=block.attention.inner_residual,
        mlp_ratio=block.mlp_ratio,
        activation=block.activation,
        data_format=block.data_format,
        dtype=block.dtype_policy,
        name=name,
    )
    channels = block.mlp_project.filters
    layer.build(_feature_shape(channels, block.data_format))

    has_scale = block.layer_scale is not None
    factor = _float64(block.attention_scale.scale).reshape(-1) if has_scale else np.ones(1)
    norm = norm_scale_and_offset(block.attention_norm)
    _set_attention_weights(layer.attention, block.attention, *norm, factor)

    expand = LinearWeights.of(block.mlp_expand).after(*norm_scale_and_offset(block.mlp_norm))
    factor = _float64(block.mlp_scale.scale).reshape(-1) if has_scale else np.ones(1)
    project = LinearWeights.of(block.mlp_project).then(factor, 0.0)
    _assign(layer.mlp_expand, expand.kernel, expand.bias)
    _assign(layer.mlp_project, project.kernel, project.bias)
    return layer


def _set_attention_weights(layer, attention, scale, offset, factor):
    """Gives a fused attention its weights."""
    levels = len(attention.levels)
    expand = LinearWeights.of(attention.expand).after(scale, offset)
    for new, kernel, bias in zip(
        layer.expand,
        np.split(expand.kernel, levels, axis=-1),
        np.split(expand.bias, levels),
        strict=True,
    ):
        _assign(new, kernel, bias)

    norm = [np.split(values, levels) for values in norm_scale_and_offset(attention.norm)]
    for new, old, *values in zip(layer.depthwise, attention.depthwise, *norm, strict=True):
        weights = LinearWeights.of(old).then(*values)
        _assign(new, weights.kernel, weights.bias)

    last = LinearWeights.of(attention.project).then(factor, 0.0)
    matrix = last.kernel[0, 0]
    fuse = LinearWeights.of(attention.fuse)
    kernels = np.split(fuse.kernel[0, 0] @ matrix, levels)
    bias = fuse.bias
    if attention.inner_residual:
        bias = bias + offset
    biases = [last.bias + bias @ matrix] + [None] * levels
    summands = layer.project
    if attention.inner_residual:
        kernels = [scale[:, None] * matrix, *kernels]
        summands = [layer.direct, *summands]
    for new, kernel, bias in zip(summands, kernels, biases, strict=False):
        _assign(new, kernel, bias)

    if attention.use_gate:
        reduce = LinearWeights.of(attention.gate_reduce).after(scale, offset)
        expand = LinearWeights.of(attention.gate_expand)
        _assign(layer.gate_reduce, reduce.kernel, reduce.bias)
        _assign(layer.gate_expand, expand.kernel, expand.bias)


def _assign(layer, kernel, bias):
    """Sets a layer's kernel, in whatever shape its values come, and its bias where it has one."""
    layer.kernel.assign(kernel.reshape(layer.kernel.shape).astype("float32"))
    if bias is not None:
        layer.bias.assign(bias.astype("float32"))


def assign_weights(layer, weights):
    """Sets kernel and bias of a layer to `LinearWeights`."""
    _assign(layer, weights.kernel, weights.bias)


def _feature_shape(channels, data_format):
    shape = [None] * 4
    shape[channel_axis(data_format)] = channels
    return tuple(shape)


def _float64(variable):
    return np.asarray(ops.convert_to_numpy(variable)).astype("float64")
