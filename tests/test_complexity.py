import keras
import pytest
from helpers import tiny_backbone

from dmformer_keras import DMFormerError
from dmformer_keras.complexity import count_multiply_accumulates
from dmformer_keras.layers import DynamicMultilevelAttention

pytestmark = pytest.mark.once_under_torch


def model_of(layer, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (keras.layers.Conv2D(5, 3, strides=2, padding="same"), 4 * 3 * 5 * 9 * 4),
        (keras.layers.Conv2D(6, 3, groups=2, padding="valid"), 6 * 4 * 6 * 9 * 2),
        (keras.layers.DepthwiseConv2D(5, padding="same", depth_multiplier=2), 8 * 6 * 8 * 25),
        (keras.layers.Dense(7), 8 * 6 * 4 * 7),
        (keras.layers.BatchNormalization(), 0),
    ],
    ids=["strided", "grouped", "depthwise", "dense", "norm"],
)
def test_counts_by_the_formula(layer, expected):
    assert count_multiply_accumulates(model_of(layer, (8, 6, 4))) == expected


def test_counts_inside_composite_layers():
    channels, positions = 8, 10 * 6
    pointwise = positions * (3 + 3 + 1) * channels**2
    depthwise = positions * (9 + 25 + 49) * channels
    gate = 2 * channels * (channels // 4)
    model = model_of(DynamicMultilevelAttention(), (10, 6, channels))
    assert count_multiply_accumulates(model) == pointwise + depthwise + gate


def test_counting_leaves_keras_as_it_was():
    before = keras.layers.Dense.call
    count_multiply_accumulates(model_of(keras.layers.Dense(2), (3,)))
    assert keras.layers.Dense.call is before


def test_grows_linearly_with_the_pixels():
    backbone = tiny_backbone(input_shape=(None, None, 3), use_gate=False)
    small = count_multiply_accumulates(backbone, (64, 64, 3))
    assert count_multiply_accumulates(backbone, (128, 192, 3)) == 6 * small


def test_needs_a_fixed_size():
    with pytest.raises(DMFormerError, match="pass input_shape"):
        count_multiply_accumulates(tiny_backbone(input_shape=(None, None, 3)))
