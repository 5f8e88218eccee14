import keras
import numpy as np
import pytest
from helpers import array, features, randomize
from reference import block, block_weights

from dmformer_keras.layers import DMFormerBlock, LayerScale


@pytest.mark.parametrize("size", [(8, 8), (11, 5)], ids=str)
def test_agrees_with_the_float64_reference(size):
    layer = DMFormerBlock(stochastic_depth=0.5)
    layer.build((None, None, None, 8))
    randomize(layer)
    x = features(2, *size, 8)
    expected = block(x.astype("float64"), block_weights(layer), ((3, 1), (5, 2), (7, 3)))
    np.testing.assert_allclose(array(layer(x, training=False)), expected, atol=1e-5, rtol=1e-5)


def test_layer_scale_of_zero_makes_the_block_the_identity():
    layer = DMFormerBlock(layer_scale=0.0)
    x = features(2, 8, 8, 8)
    np.testing.assert_array_equal(array(layer(x)), x)


def test_layer_scale_scales_each_channel_by_its_own_factor():
    layer = LayerScale(1.0)
    layer.build((None, 4, 4, 3))
    layer.scale.assign(np.array([0.5, -1.0, 2.0], "float32").reshape(layer.scale.shape))
    x = features(2, 4, 4, 3)
    np.testing.assert_allclose(array(layer(x)), x * [0.5, -1.0, 2.0], rtol=1e-6)


def test_dropping_every_branch_leaves_the_input():
    layer = DMFormerBlock(stochastic_depth=0.9)
    x = features(64, 4, 4, 8)
    outputs = array(layer(x, training=True))
    unchanged = [bool((outputs[i] == x[i]).all()) for i in range(64)]
    # Both branches are dropped with probability 0.81.
    assert 35 <= sum(unchanged) <= 63


def test_config_round_trip_gives_the_same_function():
    layer = DMFormerBlock(
        levels=((3, 1), (5, 1)), mlp_ratio=2.5, activation="relu", layer_scale=0.1, use_gate=False
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    x = features(1, 6, 6, 8)
    layer(x), again(x)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(array(again(x)), array(layer(x)))


def test_channels_first_equals_channels_last():
    if keras.config.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolution on the CPU")
    last = DMFormerBlock(layer_scale=0.5)
    last.build((None, None, None, 8))
    randomize(last)
    first = DMFormerBlock(layer_scale=0.5, data_format="channels_first")
    first.build((None, 8, None, None))
    for target, source in zip(first.weights, last.weights, strict=True):
        target.assign(array(source).reshape(target.shape))
    x = features(2, 7, 5, 8)
    outputs = array(first(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(outputs, array(last(x)), atol=1e-5)
