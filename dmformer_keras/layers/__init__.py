"""Keras layers of DMFormer, usable on their own in any Keras model."""

from dmformer_keras.layers.attention import DynamicMultilevelAttention
from dmformer_keras.layers.block import DMFormerBlock, LayerScale
from dmformer_keras.layers.convolution import BatchNorm, Convolution, DepthwiseConvolution
from dmformer_keras.layers.fused import FusedDMFormerBlock, FusedMultilevelAttention, ScaleAndOffset
from dmformer_keras.layers.stochastic_depth import StochasticDepth

__all__ = [
    "BatchNorm",
    "Convolution",
    "DMFormerBlock",
    "DepthwiseConvolution",
    "DynamicMultilevelAttention",
    "FusedDMFormerBlock",
    "FusedMultilevelAttention",
    "LayerScale",
    "ScaleAndOffset",
    "StochasticDepth",
]


def __dir__():
    return __all__
