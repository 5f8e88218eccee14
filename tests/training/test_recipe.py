"""Recipes state what is wrong with them at once."""

import dataclasses

import pytest

from dmformer_keras import DMFormerError
from dmformer_keras.training import Recipe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("batch_size", 0),
        ("image_size", 31),
        ("channels", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("warmup_epochs", 31),
        ("warmup_epochs", -1),
        ("weight_decay", -0.1),
        ("label_smoothing", 1.0),
        ("label_smoothing", None),
        ("stochastic_depth", 1.0),
        ("dropout", -0.5),
        ("clip_norm", 0),
        ("augmentation", "strong"),
        ("precision", "float64"),
        ("gradient_checkpointing", (1, 5)),
        ("seed", -1),
    ],
)
def test_a_wrong_value_is_refused_by_name(field, value):
    with pytest.raises(DMFormerError, match=field):
        Recipe(**{field: value})


def test_warmup_follows_the_epochs_unless_given():
    assert [Recipe(epochs=epochs).warmup for epochs in (2, 30, 300)] == [0.2, 3.0, 5.0]
    assert Recipe(epochs=30, warmup_epochs=0).warmup == 0
    assert Recipe(epochs=2, warmup_epochs=2).warmup == 2


def test_a_recipe_is_data():
    recipe = Recipe(epochs=7, precision="mixed_bfloat16")
    assert Recipe(**dataclasses.asdict(recipe)) == recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 8
