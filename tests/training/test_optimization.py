"""Loss, schedule and weight decay, each against its own formula."""

import keras
import numpy as np
import pytest
from helpers import array, tiny_classifier

from dmformer_keras.training import Recipe
from dmformer_keras.training.optimization import (
    SmoothedCrossEntropy,
    compile_for,
    learning_rate_schedule,
)


def test_the_loss_is_cross_entropy_with_smoothed_targets():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 5, 8)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = 0.9 * np.eye(5)[labels] + 0.1 / 5
    expected = -(targets * log_probabilities).sum(1).mean()
    loss = SmoothedCrossEntropy(0.1)
    np.testing.assert_allclose(array(loss(labels, logits)), expected, rtol=1e-5)
    again = SmoothedCrossEntropy.from_config(loss.get_config())
    np.testing.assert_allclose(array(again(labels, logits)), expected, rtol=1e-5)


def test_the_learning_rate_rises_linearly_then_falls_as_a_cosine_to_zero():
    schedule = learning_rate_schedule(Recipe(epochs=10, learning_rate=0.4, warmup_epochs=2), 50)
    rates = np.array([float(array(schedule(step))) for step in range(501)])
    np.testing.assert_allclose(rates[:101], np.linspace(0, 0.4, 101), atol=1e-6)
    expected = 0.2 * (1 + np.cos(np.pi * np.arange(401) / 400))
    np.testing.assert_allclose(rates[100:], expected, atol=1e-6)


@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_no_warmup_and_nothing_but_warmup_work(warmup_epochs):
    recipe = Recipe(epochs=2, learning_rate=0.4, warmup_epochs=warmup_epochs)
    schedule = learning_rate_schedule(recipe, 10)
    rates = [float(array(schedule(step))) for step in range(21)]
    assert np.isfinite(rates).all()
    assert max(rates) == pytest.approx(0.4)
    assert rates[0] == pytest.approx(0 if warmup_epochs else 0.4)


def test_weight_decay_shrinks_kernels_only():
    model = tiny_classifier(layer_scale=0.5)
    recipe = Recipe(learning_rate=0.1, weight_decay=0.5, warmup_epochs=0)
    compile_for(recipe, model, steps_per_epoch=10)
    before = [array(weight) for weight in model.trainable_variables]
    model.optimizer.apply([keras.ops.zeros(weight.shape) for weight in model.trainable_variables])
    kernels = 0
    for old, weight in zip(before, model.trainable_variables, strict=True):
        is_kernel = weight.name == "kernel"
        kernels += is_kernel
        factor = 1 - 0.1 * 0.5 if is_kernel else 1
        np.testing.assert_allclose(array(weight), factor * old, rtol=1e-5, err_msg=weight.path)
    assert 0 < kernels < len(before)


def test_clipping_bounds_the_norm_of_all_gradients():
    model = tiny_classifier()
    compile_for(Recipe(clip_norm=2.0), model, steps_per_epoch=1)
    assert model.optimizer.global_clipnorm == 2.0
