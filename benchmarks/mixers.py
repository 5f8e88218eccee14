"""Other token mixers in DMFormer's skeleton: same stem, stages, norms and MLPs.

Only what mixes positions differs. All take and give `(batch, height, width, channels)`.
"""

import keras
import numpy as np
from keras import ops

from dmformer_keras import DMFormerBackbone
from dmformer_keras.layers import DMFormerBlock
from dmformer_keras.layers.common import pointwise_convolution, spatial_initializer
from dmformer_keras.layers.convolution import DepthwiseConvolution

HEAD_CHANNELS = 24


class LargeKernelAttention(keras.layers.Layer):
    """VAN's mixer: `x + Conv1x1(u * LKA(u))` with `u = GELU(Conv1x1(x))`.

    LKA is a 5x5 and a dilated 7x7 depthwise and a 1x1 convolution, one after another.
    Source: Guo et al. 2022, "Visual Attention Network".
    """

    def build(self, input_shape):
        channels = input_shape[-1]
        common = {"data_format": "channels_last", "dtype": self.dtype_policy}
        self.expand = pointwise_convolution(channels, "expand", activation="gelu", **common)
        self.local = _depthwise(5, 1, "local", self.dtype_policy)
        self.dilated = _depthwise(7, 3, "dilated", self.dtype_policy)
        self.weigh = pointwise_convolution(channels, "weigh", **common)
        self.project = pointwise_convolution(channels, "project", **common)
        for layer in (self.expand, self.local, self.dilated, self.weigh, self.project):
            layer.build(input_shape)

    def call(self, inputs):
        values = self.expand(inputs)
        weights = self.weigh(self.dilated(self.local(values)))
        return inputs + self.project(values * weights)


class DepthwiseMixer(keras.layers.Layer):
    """ConvNeXt's mixer: one 7x7 depthwise convolution (Liu et al. 2022)."""

    def build(self, input_shape):
        self.depthwise = _depthwise(7, 1, "depthwise", self.dtype_policy)
        self.depthwise.build(input_shape)

    def call(self, inputs):
        return self.depthwise(inputs)


class PoolingMixer(keras.layers.Layer):
    """PoolFormer's mixer: the mean of 3x3 positions minus the position itself (Yu et al. 2022)."""

    def call(self, inputs):
        return ops.average_pool(inputs, 3, 1, "same") - inputs


class SelfAttention(keras.layers.Layer):
    """Global multi-head self-attention with a learned bias for each relative position.

    Source: Vaswani et al. 2017; the bias is Swin's (Liu et al. 2021), over the whole map.
    """

    def build(self, input_shape):
        _, self.height, self.width, channels = input_shape
        self.heads = max(channels // HEAD_CHANNELS, 1)
        common = {"data_format": "channels_last", "dtype": self.dtype_policy}
        self.query_key_value = pointwise_convolution(3 * channels, "query_key_value", **common)
        self.project = pointwise_convolution(channels, "project", **common)
        for layer in (self.query_key_value, self.project):
            layer.build(input_shape)
        places = (2 * self.height - 1) * (2 * self.width - 1)
        self.bias = self.add_weight(
            shape=(places, self.heads), initializer=_small(), name="relative_position_bias"
        )
        self.offsets = _relative_positions(self.height, self.width)

    def call(self, inputs):
        channels = inputs.shape[-1]
        tokens = self.height * self.width
        shape = (-1, tokens, 3, self.heads, channels // self.heads)
        query, key, value = ops.unstack(ops.reshape(self.query_key_value(inputs), shape), axis=2)
        scores = ops.einsum("bqhc,bkhc->bhqk", query * (channels // self.heads) ** -0.5, key)
        bias = ops.reshape(ops.take(self.bias, self.offsets, axis=0), (tokens, tokens, self.heads))
        weights = ops.softmax(scores + ops.transpose(bias, (2, 0, 1)))
        mixed = ops.einsum("bhqk,bkhc->bqhc", weights, value)
        return self.project(ops.reshape(mixed, (-1, self.height, self.width, channels)))

    def multiply_accumulates(self, channels):
        """Of the two products of all positions with all positions, for one image."""
        return 2 * (self.height * self.width) ** 2 * channels


def _depthwise(kernel_size, dilation, name, dtype):
    return DepthwiseConvolution(
        kernel_size,
        padding="same",
        dilation_rate=dilation,
        depthwise_initializer=spatial_initializer(),
        dtype=dtype,
        name=name,
    )


def _small():
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _relative_positions(height, width):
    """Returns the number of each pair's offset, an int array (positions * positions,)."""
    rows, columns = (axis.ravel() for axis in np.mgrid[:height, :width])
    down, right = (places[:, None] - places[None] for places in (rows, columns))
    return ((down + height - 1) * (2 * width - 1) + right + width - 1).ravel()


MIXERS = {
    "large_kernel_attention": LargeKernelAttention,
    "depthwise_7x7": DepthwiseMixer,
    "pooling": PoolingMixer,
    "self_attention": SelfAttention,
}


def backbone_class(mixer):
    """Returns a DMFormerBackbone whose blocks mix positions in another way.

    Args:
        mixer: a key of `MIXERS`.

    Returns:
        class, with the arguments of `DMFormerBackbone`; those of the attention have no effect.
    """

    class MixerBlock(DMFormerBlock):
        def make_mixer(self, name, dtype, **arguments):
            return MIXERS[mixer](name=name, dtype=dtype)

    class MixerBackbone(DMFormerBackbone):
        block_class = MixerBlock

    return MixerBackbone
