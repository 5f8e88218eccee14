"""Schedules and weight decay, each against its own formula."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import TO_TRAIN, array, tiny_classifier

from dmformer_keras.training import Recipe, SegmentationRecipe
from dmformer_keras.training.averaging import averaged_weights
from dmformer_keras.training.optimization import compile_for, learning_rate_schedule

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def rates_of(schedule, steps):
    """The rates of the first steps; compiled under JAX, where single operations take long."""
    rate = schedule
    if keras.config.backend() == "jax":
        import jax

        rate = jax.jit(schedule)
    return np.array([float(array(rate(step))) for step in range(steps)])


def test_the_learning_rate_rises_linearly_then_falls_as_a_cosine_to_zero():
    schedule = learning_rate_schedule(Recipe(epochs=10, learning_rate=0.4, warmup_epochs=2), 50)
    rates = rates_of(schedule, 501)
    np.testing.assert_allclose(rates[:101], np.linspace(0, 0.4, 101), atol=1e-6)
    expected = 0.2 * (1 + np.cos(np.pi * np.arange(401) / 400))
    np.testing.assert_allclose(rates[100:], expected, atol=1e-6)


@pytest.mark.parametrize("power", [0.9, 1.0])
def test_the_polynomial_decay_falls_to_zero_after_the_warmup(power):
    recipe = SegmentationRecipe(epochs=10, learning_rate=0.4, warmup_epochs=2, power=power)
    schedule = learning_rate_schedule(recipe, 50)
    again = type(schedule).from_config(schedule.get_config())
    for rule in (schedule, again):
        rates = rates_of(rule, 510)
        np.testing.assert_allclose(rates[:101], np.linspace(0, 0.4, 101), atol=1e-6)
        expected = 0.4 * (1 - np.arange(401) / 400) ** power
        np.testing.assert_allclose(rates[100:501], expected, atol=1e-6)
        assert (rates[500:] == 0).all()


@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_no_warmup_and_nothing_but_warmup_work(warmup_epochs):
    recipe = Recipe(epochs=2, learning_rate=0.4, warmup_epochs=warmup_epochs)
    schedule = learning_rate_schedule(recipe, 10)
    rates = rates_of(schedule, 21)
    assert np.isfinite(rates).all()
    assert max(rates) == pytest.approx(0.4)
    assert rates[0] == pytest.approx(0 if warmup_epochs else 0.4)


def test_weight_decay_shrinks_kernels_only():
    model = tiny_classifier(layer_scale=0.5, **TO_TRAIN)
    recipe = Recipe(learning_rate=0.1, weight_decay=0.5, warmup_epochs=0)
    compile_for(recipe, model, 10, LOSS, [])
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
    rng = np.random.default_rng(0)
    shapes = [weight.shape for weight in tiny_classifier(**TO_TRAIN).trainable_variables]
    gradients = [rng.normal(size=shape).astype("float32") for shape in shapes]
    assert np.sqrt(sum((gradient**2).sum() for gradient in gradients)) > 2

    def after_two_steps(factor):
        """The weights, where the gradients of the second step are so much larger."""
        keras.utils.set_random_seed(0)
        model = tiny_classifier(**TO_TRAIN)
        compile_for(Recipe(clip_norm=2.0, warmup_epochs=0), model, 10, LOSS, [])
        for scale in (1.0, factor):
            model.optimizer.apply([keras.ops.convert_to_tensor(scale * g) for g in gradients])
        return [array(weight) for weight in model.trainable_variables]

    expected = after_two_steps(1.0)
    for one, other in zip(after_two_steps(50.0), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    # Below the limit nothing is changed, and Adam's second step is a smaller one.
    smaller = after_two_steps(1e-3)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(smaller, expected, strict=True))


def test_accumulated_gradients_make_one_update_of_their_mean():
    models = [tiny_classifier(**TO_TRAIN) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    rng = np.random.default_rng(0)
    shapes = [weight.shape for weight in models[0].trainable_variables]
    first, second = ([rng.normal(size=shape).astype("float32") for shape in shapes] for _ in "ab")
    recipe = Recipe(learning_rate=0.1, warmup_epochs=0, epochs=1)
    many = 10**6  # so that the learning rate hardly falls
    compile_for(recipe, models[0], many, LOSS, [])
    compile_for(dataclasses.replace(recipe, accumulate=2), models[1], many, LOSS, [])
    means = [(one + other) / 2 for one, other in zip(first, second, strict=True)]
    before = models[1].get_weights()
    for model, steps in ((models[0], [means]), (models[1], [first, second])):
        for step, gradients in enumerate(steps):
            model.optimizer.apply([keras.ops.convert_to_tensor(part) for part in gradients])
            if step < len(steps) - 1:
                for one, other in zip(model.get_weights(), before, strict=True):
                    np.testing.assert_array_equal(one, other)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_schedule_of_accumulated_gradients_ends_with_the_last_batch():
    model = tiny_classifier(**TO_TRAIN)
    recipe = Recipe(epochs=2, accumulate=2, warmup_epochs=0, learning_rate=0.5)
    compile_for(recipe, model, 4, LOSS, [])
    zeros = [keras.ops.zeros(weight.shape) for weight in model.trainable_variables]
    for _ in range(8):
        assert float(array(model.optimizer.learning_rate)) > 1e-3
        model.optimizer.apply(zeros)
    assert float(array(model.optimizer.learning_rate)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_average_moves_with_the_updates_not_with_the_batches(accumulate):
    model = tiny_classifier(**TO_TRAIN)
    recipe = Recipe(ema=0.6, accumulate=accumulate, learning_rate=0.1, warmup_epochs=0)
    compile_for(recipe, model, 10**6, LOSS, [])
    model.optimizer._iterations.assign(100 * accumulate)  # warmed up
    weight = model.trainable_variables[0]
    ones = [keras.ops.ones(other.shape) for other in model.trainable_variables]

    def average():
        with averaged_weights(model):
            return array(weight)

    for _ in range(2 * accumulate - 1):  # the next batch makes an update
        model.optimizer.apply(ones)
    before = average()
    for _ in range(accumulate):
        model.optimizer.apply(ones)
    expected = 0.6 * before + 0.4 * array(weight)
    np.testing.assert_allclose(average(), expected, atol=1e-5)


def test_the_average_of_the_weights_takes_their_place_for_a_while():
    model = tiny_classifier(**TO_TRAIN)
    compile_for(Recipe(ema=0.25, learning_rate=0.1, warmup_epochs=0), model, 10, LOSS, [])
    average = None
    for momentum in (0, 2 / 11, 0.25, 0.25):  # 3 / 12 and 4 / 13, but for the recipe's
        gradients = [keras.random.normal(weight.shape) for weight in model.trainable_variables]
        model.optimizer.apply(gradients)
        own = [array(weight) for weight in model.trainable_variables]
        if average is None:
            average = own
        average = [momentum * a + (1 - momentum) * b for a, b in zip(average, own, strict=True)]
    with averaged_weights(model):
        for weight, expected in zip(model.trainable_variables, average, strict=True):
            np.testing.assert_allclose(array(weight), expected, atol=1e-5)
    for weight, expected in zip(model.trainable_variables, own, strict=True):
        np.testing.assert_array_equal(array(weight), expected)
