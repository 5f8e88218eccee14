"""Keras layers of DMFormer, usable on their own in any Keras model."""

from dmformer_keras.layers.attention import DynamicMultilevelAttention
from dmformer_keras.layers.block import DMFormerBlock, LayerScale
from dmformer_keras.layers.stochastic_depth import StochasticDepth

__all__ = ["DMFormerBlock", "DynamicMultilevelAttention", "LayerScale", "StochasticDepth"]
