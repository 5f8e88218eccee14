"""With gradient checkpointing everything is as without, except what is kept in memory."""

import keras
import numpy as np
import pytest
from helpers import (
    TO_TRAIN,
    array,
    compiled,
    features,
    images,
    loss_and_gradients,
    randomize,
    tiny_classifier,
)

from dmformer_keras.layers import DMFormerBlock, block
from dmformer_keras.layers.checkpointing import checkpointed_call

BACKEND = keras.config.backend()


def block_model(gradient_checkpointing, dtype="float32", trainable=True):
    """A block, on its way to float32 outputs, that starts with the same weights and seeds."""
    keras.utils.set_random_seed(0)
    layer = DMFormerBlock(
        levels=((3, 1), (5, 2)),
        stochastic_depth=0.5,
        layer_scale=0.5,
        gradient_checkpointing=gradient_checkpointing,
        dtype=dtype,
    )
    layer.build((None, 6, 6, 8))
    randomize(layer)
    layer.trainable = trainable
    outputs = keras.layers.Activation("linear", dtype="float32")
    return keras.Sequential([keras.Input((6, 6, 8)), layer, outputs])


def state(model):
    """BatchNorm statistics and the states of the random generators."""
    return [array(variable) for variable in model.non_trainable_variables]


def assert_all_close(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_loss_and_every_gradient_are_the_same(dtype):
    x, cotangent = features(8, 6, 6, 8), features(8, 6, 6, 8, seed=1)
    plain, checkpointed = block_model(False, dtype), block_model(True, dtype)
    expected = loss_and_gradients(plain, x, cotangent, training=True)
    found = loss_and_gradients(checkpointed, x, cotangent, training=True)
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    scale = max(np.abs(gradient).max() for gradient in expected[2])
    np.testing.assert_allclose(found[1], expected[1], atol=tolerance * 10)
    for one, other in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_statistics_and_seeds_move_on_once_a_step(dtype):
    plain, checkpointed = block_model(False, dtype), block_model(True, dtype)
    start = state(plain)
    for seed in range(2):
        x = features(8, 6, 6, 8, seed=seed)
        outputs = [array(model(x, training=True)) for model in (plain, checkpointed)]
        assert_all_close([outputs[1]], [outputs[0]], 1e-5 if dtype == "float32" else 5e-2)
        assert_all_close(state(checkpointed), state(plain))
    assert all((before != after).any() for before, after in zip(start, state(plain), strict=True))


@pytest.mark.skipif(BACKEND == "jax", reason="JAX's gradients change no state: see fit")
def test_the_backward_pass_changes_no_state():
    x, cotangent = features(8, 6, 6, 8), features(8, 6, 6, 8, seed=1)
    plain, checkpointed = block_model(False), block_model(True)
    for model in (plain, checkpointed):
        loss_and_gradients(model, x, cotangent, training=True)
    assert_all_close(state(checkpointed), state(plain))


def test_a_frozen_block_passes_the_same_gradient_on_and_stays():
    x, cotangent = features(8, 6, 6, 8), features(8, 6, 6, 8, seed=1)
    plain, checkpointed = (block_model(value, trainable=False) for value in (False, True))
    weights = [array(variable) for variable in checkpointed.weights]
    expected = loss_and_gradients(plain, x, cotangent, training=True)
    found = loss_and_gradients(checkpointed, x, cotangent, training=True)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
    assert_all_close([array(variable) for variable in checkpointed.weights], weights, 0)


def test_a_block_used_twice_has_the_gradients_of_both_uses():
    x, cotangent = features(8, 6, 6, 8), features(8, 6, 6, 8, seed=1)
    results = []
    for gradient_checkpointing in (False, True):
        inputs = keras.Input((6, 6, 8))
        layer = block_model(gradient_checkpointing).layers[0]
        model = keras.Model(inputs, layer(layer(inputs)))
        results.append(loss_and_gradients(model, x, cotangent, training=True))
    plain, checkpointed = results
    assert checkpointed[0] == pytest.approx(plain[0], rel=1e-5)
    scale = max(np.abs(gradient).max() for gradient in plain[2])
    assert_all_close([g / scale for g in checkpointed[2]], [g / scale for g in plain[2]])


def test_inference_is_left_alone(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("checkpointed")

    monkeypatch.setattr(block, "checkpointed_call", refuse)
    x = features(2, 6, 6, 8)
    plain, checkpointed = block_model(False), block_model(True)
    np.testing.assert_array_equal(array(checkpointed(x)), array(plain(x)))
    np.testing.assert_array_equal(
        array(checkpointed(x, training=False)), array(plain(x, training=False))
    )
    with pytest.raises(AssertionError, match="checkpointed"):
        checkpointed(x, training=True)


def fitted(gradient_checkpointing, **compile_arguments):
    keras.utils.set_random_seed(0)
    model = tiny_classifier(
        **TO_TRAIN,
        input_shape=(32, 32, 3),
        stochastic_depth=0.5,
        gradient_checkpointing=gradient_checkpointing,
    )
    compiled(model, keras.optimizers.SGD(0.05, momentum=0.9), **compile_arguments)
    x, y = images(16, 32, 32, 3), np.arange(16) % 5
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return history["loss"], model


def test_a_fit_gives_the_same_losses_weights_and_statistics():
    expected, plain = fitted(False)
    losses, checkpointed = fitted((1, 3))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for one, other in zip(checkpointed.variables, plain.variables, strict=True):
        np.testing.assert_allclose(array(one), array(other), atol=1e-3, err_msg=one.path)
    assert len(plain.weights) == len(checkpointed.weights)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX compiles anyhow, torch never here")
def test_a_fit_compiled_by_xla_is_the_same_too():
    expected, _ = fitted(False, jit_compile=True)
    losses, _ = fitted(True, jit_compile=True)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


class Tower(keras.layers.Layer):
    """Dense layers, whose activations together are many times the inputs."""

    def __init__(self, checkpointed):
        super().__init__()
        self.checkpointed = checkpointed
        self.steps = [keras.layers.Dense(32, "tanh") for _ in range(6)]
        self.seen = None

    def build(self, input_shape):
        for step in self.steps:
            step.build(input_shape)

    def climb(self, x):
        for index, step in enumerate(self.steps):
            x = step(x)
            if index == 2:
                self.seen = x
        return x

    def call(self, inputs):
        if self.checkpointed:
            return checkpointed_call(self, self.climb, inputs)
        return self.climb(inputs)


def towers(checkpointed):
    return keras.Sequential([keras.Input((32,)), Tower(checkpointed), Tower(checkpointed)])


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's account of its memory")
def test_jax_keeps_less_and_computes_more():
    import jax

    def account(checkpointed):
        model = towers(checkpointed)

        def loss(weights, x):
            return (model.stateless_call(weights, [], x, training=True)[0] ** 2).sum()

        weights = [variable.value for variable in model.trainable_variables]
        compiled = jax.jit(jax.grad(loss)).lower(weights, features(4096, 32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes, compiled.cost_analysis()["flops"]

    (kept, computed), (kept_less, computed_more) = account(False), account(True)
    assert kept_less < 0.8 * kept
    assert computed_more > 1.25 * computed


@pytest.mark.skipif(BACKEND != "torch", reason="what PyTorch saves for the backward pass")
def test_torch_saves_no_activations():
    import torch

    def saved_bytes(checkpointed):
        model, saved = towers(checkpointed), []

        def pack(tensor):
            saved.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(features(4096, 32), training=True)
        return sum(saved)

    assert saved_bytes(True) < 0.2 * saved_bytes(False)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="what TensorFlow's tape watches")
def test_tensorflows_tape_keeps_no_activations():
    import tensorflow as tf

    for checkpointed in (False, True):
        model = towers(checkpointed)
        x = tf.constant(features(4, 32))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            model(x, training=True)
            inner = model.layers[0].seen
        assert (tape.gradient(inner, x) is None) == checkpointed


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's way to XLA")
def test_xla_does_not_undo_it_under_tensorflow():
    import tensorflow as tf

    def matrix_products(checkpointed):
        model = towers(checkpointed)

        @tf.function(jit_compile=True)
        def gradients(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True) ** 2)
            return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

        x = tf.constant(features(64, 32))
        return gradients.experimental_get_compiler_ir(x)(stage="optimized_hlo").count(" dot(")

    # All but each tower's last: its output is not needed again.
    assert matrix_products(True) >= matrix_products(False) + 2 * 5
