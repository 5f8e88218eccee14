"""Counts of multiply-accumulates, for any Keras model built of Keras layers."""

import math
from unittest import mock

import keras

from dmformer_keras.errors import DMFormerError

COUNTED_LAYERS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def count_multiply_accumulates(model, input_shape=None):
    """Counts the multiply-accumulates of the forward pass for one example, an int.

    Convolutions (plain, grouped, depthwise) and dense layers are counted, also in nested models and
    composite layers, by running the model symbolically. As usual in this field, biases, norms,
    activations, pooling and additions are not counted; neither are matrix products outside of dense
    layers, such as those of attention. `input_shape` is the shape of one example, for a model whose
    own is not fixed.

    >>> inputs = keras.Input((8, 8, 3))
    >>> model = keras.Model(inputs, keras.layers.Conv2D(4, 3, padding="same")(inputs))
    >>> count_multiply_accumulates(model) == 8 * 8 * 4 * 3 * 3 * 3
    True
    """
    shape = tuple(input_shape or model.input.shape[1:])
    if None in shape:
        raise DMFormerError(
            f"The model takes any size {shape}; pass input_shape with fixed sizes to count for."
        )
    total = 0

    call = keras.layers.Layer.__call__

    def call_and_count(layer, inputs, *args, **kwargs):
        nonlocal total
        outputs = call(layer, inputs, *args, **kwargs)
        if isinstance(layer, COUNTED_LAYERS):
            total += _layer_count(layer, inputs.shape, outputs.shape)
        return outputs

    # The layers inside composite layers keep no record of their shapes, so all
    # calls are watched for the time of one symbolic pass.
    with mock.patch.object(keras.layers.Layer, "__call__", call_and_count):
        keras.layers.Lambda(model.call)(keras.KerasTensor((1, *shape), dtype=model.input.dtype))
    return total


def _layer_count(layer, input_shape, output_shape):
    if isinstance(layer, keras.layers.Dense):
        return math.prod(input_shape) * layer.units  # of one example
    # Every output value takes one kernel's worth of products: the kernel without
    # its filters (for a depthwise one, without its channels and multiplier).
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    kernel = layer.kernel.shape[:2] if depthwise else layer.kernel.shape[:-1]
    return math.prod(output_shape[1:]) * math.prod(kernel)
