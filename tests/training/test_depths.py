"""Depth follows the way through the backbone; for every variant see test_grouped_updates."""

import keras
import numpy as np
import pytest
from helpers import TO_TRAIN, array, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerError, SemanticFPN
from dmformer_keras.training import Recipe, layer_depths
from dmformer_keras.training.optimization import GroupedAdamW, compile_for


@pytest.mark.once_under_torch
def test_depth_follows_the_way_through_the_backbone():
    model = tiny_classifier()
    first = {}
    for layer in model.backbone.layers:
        for weight in layer.trainable_variables:
            first.setdefault(id(weight), layer.name)
    names = {}
    for weight, depth in layer_depths(model):
        names.setdefault(depth, set()).add(first.get(id(weight), "head"))
    assert names[0] == {f"stem{n}_{part}" for n in (1, 2, 3) for part in ("conv", "norm")}
    assert names[1] == {"stage1_block1"}
    assert names[3] == {"stage3_downsample_conv", "stage3_downsample_norm", "stage3_block1"}
    assert names[4] == {"stage3_block2"}
    assert names[6] == {"head"}


def test_the_learning_rate_decays_towards_the_input():
    model = tiny_classifier(**TO_TRAIN)
    recipe = Recipe(learning_rate=0.1, weight_decay=0.5, warmup_epochs=0, layer_decay=0.5)
    compile_for(recipe, model, 10, keras.losses.SparseCategoricalCrossentropy(), [])
    assert isinstance(model.optimizer, GroupedAdamW)
    before = [array(weight) for weight in model.trainable_variables]
    random = np.random.default_rng(0)
    gradients = [random.choice([-1.0, 1.0], weight.shape) for weight in before]
    model.optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in gradients])
    for (weight, depth), old, gradient in zip(layer_depths(model), before, gradients, strict=True):
        rate = 0.1 * 0.5 ** (5 - depth)
        decayed = old * (1 - rate * 0.5) if weight.name == "kernel" else old
        # Adam's first step is the learning rate, in the direction of the gradient.
        np.testing.assert_allclose(
            array(weight), decayed - rate * np.sign(gradient), rtol=1e-4, atol=1e-6
        )


@pytest.mark.once_under_torch
def test_other_backbones_are_refused():
    inputs = keras.Input((8,))
    with pytest.raises(DMFormerError, match="layer_decay=1"):
        layer_depths(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
    counted = layer_depths(SemanticFPN(tiny_backbone(), 2, head_channels=8))
    assert {depth for _, depth in counted} == set(range(7))
