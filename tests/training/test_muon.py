"""Muon's update against Keras's own, and which weights it is for."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import TO_TRAIN, array, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerClassifier, DMFormerError, SemanticFPN
from dmformer_keras.training import Recipe
from dmformer_keras.training.distribution import OneDevice
from dmformer_keras.training.muon import ConvolutionMuon, orthogonalized
from dmformer_keras.training.optimization import compile_for
from dmformer_keras.training.run_checks import check_distribution

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RECIPE = Recipe(optimizer="muon", learning_rate=0.1, warmup_epochs=0)


def gradients_of(model, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=weight.shape).astype("float32") for weight in model.trainable_variables]


def updated(model, recipe, gradients):
    """{path: weight} after a step for each of some gradients."""
    compile_for(recipe, model, 10**6, LOSS, [])
    for own in gradients:
        model.optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in own])
    return {weight.path: array(weight) for weight in model.trainable_variables}


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)])
def test_an_orthogonalized_matrix_keeps_its_singular_vectors_and_loses_their_sizes(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype("float32")
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    found = left.T @ array(orthogonalized(keras.ops.convert_to_tensor(matrix))) @ right.T
    assert values.max() > 3 * values.min()
    assert np.diag(found).min() > 0.6
    assert np.diag(found).max() < 1.3
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 6, 20), (1, 1, 20, 6), (2, 2, 3, 8)])
def test_the_steps_are_those_of_keras_for_the_kernel_as_a_matrix(shape):
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(4, *shape)).astype("float32")
    kernel = keras.Variable(start, name="kernel")
    kernel._path = "stage1_block1/mlp_expand/kernel"
    matrix = keras.Variable(start.reshape(-1, shape[-1]))
    ours, keras_own = ConvolutionMuon(0.01, weight_decay=0.1), keras.optimizers.Muon(
        0.01, weight_decay=0.1
    )  # fmt: skip
    for gradient in gradients:
        ours.apply([keras.ops.convert_to_tensor(gradient)], [kernel])
        keras_own.apply([keras.ops.convert_to_tensor(gradient.reshape(matrix.shape))], [matrix])
    assert np.abs(array(kernel) - start).max() > 1e-3
    np.testing.assert_allclose(array(kernel).reshape(matrix.shape), array(matrix), atol=1e-5)


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_only_convolutions_of_the_stages_differ_from_adamw(task):
    def model():
        keras.utils.set_random_seed(0)
        backbone = tiny_backbone(**TO_TRAIN)
        return (
            DMFormerClassifier(backbone, 5) if task == "classify" else SemanticFPN(backbone, 3, 8)
        )

    gradients = [gradients_of(model())]
    muon = updated(model(), RECIPE, gradients)
    adamw = updated(model(), dataclasses.replace(RECIPE, optimizer="adamw"), gradients)
    kernels = {path for path, weight in muon.items() if weight.ndim == 4}
    inside = {path for path in kernels if path.startswith("stage")}
    depthwise = {path for path in inside if "/level" in path}
    assert all([depthwise, inside - depthwise, kernels - inside])
    differing = {path for path in muon if np.abs(muon[path] - adamw[path]).max() > 1e-4}
    assert differing == inside - depthwise


def test_weight_decay_and_layer_decay_are_as_with_adamw():
    model = tiny_classifier(**TO_TRAIN)
    recipe = dataclasses.replace(RECIPE, weight_decay=0.5, layer_decay=0.5)
    before = {weight.path: array(weight) for weight in model.trainable_variables}
    zeros = [np.zeros(weight.shape, "float32") for weight in model.trainable_variables]
    after = updated(model, recipe, [zeros])
    path = next(path for path in after if path.endswith("mlp_expand/kernel"))
    first = next(path for path in after if "stem" in path and path.endswith("kernel"))
    shares = [1 - (after[one] / before[one]).mean() for one in (path, first)]
    assert 0 < shares[1] < shares[0] < 0.1 * 0.5


@pytest.mark.backend_independent
def test_it_is_refused_where_it_has_nothing_to_train():
    with pytest.raises(DMFormerError, match="freeze_backbone"):
        Recipe(optimizer="muon", freeze_backbone=True)
    with pytest.raises(DMFormerError, match="optimizer must be one of adamw, muon"):
        Recipe(optimizer="lion")
    copies = OneDevice()
    copies.optimizer_class = keras.optimizers.AdamW  # as on several devices of TensorFlow's
    with pytest.raises(DMFormerError, match="by adamw only, not by muon"):
        check_distribution(Recipe(optimizer="muon"), range(64), copies)
