import keras
import numpy as np
import pytest
from helpers import array, features, loss_and_gradients, randomize
from reference import attention, attention_weights

from dmformer_keras import DMFormerError
from dmformer_keras.layers import DynamicMultilevelAttention

LEVELS = ((3, 1), (5, 2), (7, 3))
VARIANTS = {
    "paper": {},
    "gate off": {"use_gate": False},
    "inner residual off": {"inner_residual": False},
    "one level": {"levels": ((7, 3),)},
    "other levels": {"levels": ((1, 1), (9, 2)), "gate_reduction": 2},
}


def built(channels=12, **arguments):
    layer = DynamicMultilevelAttention(**arguments)
    layer.build((None, None, None, channels))
    return randomize(layer)


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("size", [(8, 8), (13, 7), (1, 2)], ids=str)
def test_agrees_with_the_float64_reference(arguments, size):
    layer = built(**arguments)
    x = features(2, *size, 12)
    expected = attention(
        x.astype("float64"),
        attention_weights(layer),
        layer.levels,
        use_gate=layer.use_gate,
        inner_residual=layer.inner_residual,
    )
    np.testing.assert_allclose(array(layer(x, training=False)), expected, atol=1e-5, rtol=1e-5)


def test_gradients_agree_with_finite_differences_of_the_reference():
    layer = built(channels=4)
    x, cotangent = features(2, 6, 5, 4), features(2, 6, 5, 4, seed=1)
    loss, for_inputs, for_weights = loss_and_gradients(layer, x, cotangent)

    def reference_loss(inputs):
        return (attention(inputs, attention_weights(layer), LEVELS) * cotangent).sum()

    inputs = x.astype("float64")
    assert loss == pytest.approx(reference_loss(inputs), rel=1e-4, abs=1e-4)
    random, step = np.random.default_rng(2), 1e-5
    for _ in range(5):
        direction = random.normal(size=inputs.shape)
        slope = (reference_loss(inputs + step * direction) - reference_loss(inputs)) / step
        assert (for_inputs * direction).sum() == pytest.approx(slope, rel=2e-3, abs=2e-3)
    base = reference_loss(inputs)
    for variable, gradient in zip(layer.trainable_variables, for_weights, strict=True):
        original = array(variable)
        direction = random.normal(size=original.shape)
        size = 1e-3  # float32 weights: a smaller step would drown in rounding
        variable.assign(original + size * direction)
        upper = reference_loss(inputs)
        variable.assign(original - size * direction)
        lower = reference_loss(inputs)
        variable.assign(original)
        slope = (upper - lower) / (2 * size)
        tolerance = 1e-2 * max(1.0, abs(slope))
        assert (gradient * direction).sum() == pytest.approx(slope, abs=tolerance), variable.path
    assert reference_loss(inputs) == base


def test_training_uses_the_statistics_of_the_batch():
    layer = built()
    x = features(4, 9, 9, 12) * 3 + 1
    before = array(layer.norm.moving_mean)
    training = array(layer(x, training=True))
    assert np.abs(training - array(layer(x, training=False))).max() > 1e-2
    assert np.abs(array(layer.norm.moving_mean) - before).max() > 1e-3


def test_gate_depends_on_the_input_and_multiplies_the_output():
    layer = built()
    x = features(2, 6, 6, 12)
    gate = array(layer.gate(x))
    assert gate.shape == (2, 1, 1, 12)
    assert ((gate > 0) & (gate < 1)).all()
    assert np.abs(gate[0] - gate[1]).max() > 1e-3
    layer.use_gate = False
    ungated = array(layer(x))
    layer.use_gate = True
    np.testing.assert_allclose(array(layer(x)), gate * ungated, atol=1e-6)


def test_each_level_reaches_as_far_as_its_kernel_and_dilation():
    x = features(1, 31, 31, 4)
    for kernel_size, dilation in LEVELS:
        layer = built(channels=4, levels=((kernel_size, dilation),), use_gate=False)
        changed = np.zeros((31, 31), bool)
        for amount in (-9.0, 9.0):  # of both signs, for one of them passes the ReLU
            disturbed = x.copy()
            disturbed[0, 15, 15] += amount
            changed |= np.abs(array(layer(disturbed)) - array(layer(x))).max(axis=(0, 3)) > 0
        taps = 15 + dilation * (np.arange(kernel_size) - kernel_size // 2)
        expected = np.zeros((31, 31), bool)
        expected[np.ix_(taps, taps)] = True
        np.testing.assert_array_equal(changed, expected)


def test_channels_first_equals_channels_last():
    if keras.config.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolution on the CPU")
    last = built()
    first = DynamicMultilevelAttention(data_format="channels_first")
    first.build((None, 12, None, None))
    first.set_weights(last.get_weights())
    x = features(2, 9, 6, 12)
    outputs = array(first(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(outputs, array(last(x)), atol=1e-5)
    assert first.gate(x.transpose(0, 3, 1, 2)).shape == (2, 12, 1, 1)


def test_config_round_trip_keeps_the_layer():
    layer = DynamicMultilevelAttention(
        levels=[[3, 1], [5, 1]], gate_reduction=2, inner_residual=False, dtype="mixed_bfloat16"
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    assert again.levels == ((3, 1), (5, 1))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
def test_dtype_policies_reach_every_weight_and_the_output(policy):
    if policy == "float64" and keras.config.backend() == "jax":
        pytest.skip("JAX has float64 only when the whole process asks for it")
    layer = DynamicMultilevelAttention(dtype=policy)
    outputs = layer(features(1, 6, 6, 8))
    expected = keras.dtype_policies.get(policy)
    assert keras.backend.standardize_dtype(outputs.dtype) == expected.compute_dtype
    assert {variable.dtype for variable in layer.weights} == {expected.variable_dtype}
    assert np.isfinite(array(keras.ops.cast(outputs, "float32"))).all()


@pytest.mark.parametrize(
    "levels", [(), ((4, 1),), ((3, 0),), ((3,),), 3, ((3.0, 1),), ((True, 1),), None], ids=str
)
def test_wrong_levels_are_named(levels):
    with pytest.raises(DMFormerError, match="levels must be"):
        DynamicMultilevelAttention(levels=levels)


@pytest.mark.parametrize("reduction", [0, -1, 2.5, "4"])
def test_wrong_gate_reduction_is_named(reduction):
    with pytest.raises(DMFormerError, match="gate_reduction must be a positive integer"):
        DynamicMultilevelAttention(gate_reduction=reduction)


def test_wrong_data_format_is_named():
    with pytest.raises(DMFormerError, match="channels_first"):
        DynamicMultilevelAttention(data_format="NCHW")
