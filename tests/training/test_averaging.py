"""Averaged weights, and the BatchNorm statistics that belong to them."""

import keras
import numpy as np
import pytest
from helpers import TO_TRAIN, array, tiny_classifier

from dmformer_keras.errors import DMFormerError
from dmformer_keras.training.averaging import (
    average_weights,
    averaged_weights,
    estimate_statistics,
    statistics_set,
    statistics_values,
)


def image_batches(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(0, 255, (6, 64, 64, 3)).astype("float32") for _ in range(count)]


def test_statistics_are_the_means_over_the_batches():
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.9)]
    )
    batches = [batch[:, :4, :4] for batch in image_batches(3)]
    mean, variance = estimate_statistics(model, batches)
    np.testing.assert_allclose(mean, np.mean([b.mean((0, 1, 2)) for b in batches], 0), rtol=1e-4)
    np.testing.assert_allclose(variance, np.mean([b.var((0, 1, 2)) for b in batches], 0), rtol=1e-3)
    assert model.layers[0].momentum == 0.99
    assert model.layers[1].rate == 0.9


def test_nothing_is_dropped_while_statistics_are_estimated():
    model = tiny_classifier(stochastic_depth=0.9, **TO_TRAIN)
    once = estimate_statistics(model, image_batches(1))
    again = estimate_statistics(model, image_batches(1))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_frozen_layers_keep_their_statistics():
    model = tiny_classifier(**TO_TRAIN)
    for layer in model.backbone.layers:
        layer.trainable = False
    before = [array(variable) for variable in model.backbone.non_trainable_variables]
    assert len(estimate_statistics(model, image_batches(1))) == 2  # of the head's norm
    for variable, value in zip(model.backbone.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)


def test_statistics_are_set_for_a_while():
    model = tiny_classifier(**TO_TRAIN)
    own = statistics_values(model)
    others = [value + 1 for value in own]
    with statistics_set(model, others):
        for found, expected in zip(statistics_values(model), others, strict=True):
            np.testing.assert_array_equal(found, expected)
    for found, expected in zip(statistics_values(model), own, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_without_an_average_the_weights_stay():
    model = tiny_classifier(**TO_TRAIN)
    model.compile("sgd", "mse")
    before = [array(weight) for weight in model.trainable_variables]
    with averaged_weights(model):
        for weight, value in zip(model.trainable_variables, before, strict=True):
            np.testing.assert_array_equal(array(weight), value)


def random_classifier(seed):
    model = tiny_classifier(**TO_TRAIN)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 1, weight.shape) for weight in model.weights])
    return model


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_model_between_two_has_the_shares_of_both(share):
    one, other = random_classifier(0), random_classifier(1)
    first, second = one.get_weights(), other.get_weights()
    average_weights(one, other, share)
    for found, a, b in zip(one.get_weights(), first, second, strict=True):
        np.testing.assert_allclose(found, (1 - share) * a + share * b, rtol=1e-5)
    for found, b in zip(other.get_weights(), second, strict=True):
        np.testing.assert_array_equal(found, b)


def test_statistics_of_averaged_weights_are_estimated_on_images():
    one, other = random_classifier(0), random_classifier(1)
    batches = image_batches(2)
    average_weights(one, other, 0.5, iter(batches))
    found = statistics_values(one)
    for value, expected in zip(found, estimate_statistics(one, batches), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.once_under_torch
@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "half"])
def test_a_share_is_a_number_from_0_to_1(share):
    with pytest.raises(DMFormerError, match="share must be"):
        average_weights(tiny_classifier(), tiny_classifier(), share)


@pytest.mark.once_under_torch
def test_models_of_other_classes_are_refused():
    models = [tiny_classifier(2, class_names=names) for names in (["a", "b"], ["b", "a"])]
    with pytest.raises(DMFormerError, match="same classes in the same order"):
        average_weights(*models)


@pytest.mark.once_under_torch
def test_models_of_other_shapes_are_refused():
    with pytest.raises(DMFormerError, match="same shapes"):
        average_weights(tiny_classifier(), tiny_classifier(num_classes=7))
