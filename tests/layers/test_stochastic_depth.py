import keras
import numpy as np
import pytest
from helpers import array, features, tiny_backbone

from dmformer_keras import DMFormerError
from dmformer_keras.layers import StochasticDepth


def test_drops_whole_examples_at_the_rate_and_keeps_the_mean():
    x = np.abs(features(2000, 2, 3)) + 0.1
    outputs = array(StochasticDepth(0.3, seed=1)(x, training=True))
    dropped = (outputs == 0).all(axis=(1, 2))
    np.testing.assert_allclose(outputs[~dropped], x[~dropped] / 0.7, rtol=1e-5)
    assert dropped.mean() == pytest.approx(0.3, abs=0.04)
    assert outputs.mean() == pytest.approx(x.mean(), rel=0.07)


def test_inference_and_rate_zero_are_the_identity():
    x = features(4, 2, 2, 3)
    np.testing.assert_array_equal(array(StochasticDepth(0.9)(x)), x)
    np.testing.assert_array_equal(array(StochasticDepth(0.0)(x, training=True)), x)


def test_what_is_frozen_drops_nothing():
    x = features(64, 64, 64, 3)
    backbone = tiny_backbone(stochastic_depth=0.5)
    assert np.abs(array(backbone(x, training=True)) - array(backbone(x))).max() > 0.1
    backbone.trainable = False
    np.testing.assert_allclose(array(backbone(x, training=True)), array(backbone(x)), atol=1e-4)


def test_seeds_reproduce_and_calls_differ():
    x = features(64, 2)
    first, second = (StochasticDepth(0.5, seed=3) for _ in range(2))
    once = array(first(x, training=True))
    np.testing.assert_array_equal(once, array(second(x, training=True)))
    assert (once != array(first(x, training=True))).any()


def test_half_precision_keeps_its_dtype():
    outputs = StochasticDepth(0.1, dtype="float16")(features(4, 2), training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2])
def test_wrong_rate_is_named(rate):
    with pytest.raises(DMFormerError, match="rate must be at least 0 and less than 1"):
        StochasticDepth(rate)
