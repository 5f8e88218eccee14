"""Recipes state what is wrong with them at once."""

import dataclasses
import importlib
import inspect
import json

import pytest

from dmformer_keras import DMFormerError, presets
from dmformer_keras.presets import read_preset
from dmformer_keras.training import Recipe, SegmentationRecipe, recipes

pytestmark = pytest.mark.backend_independent


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
        ("ema", 1.0),
        ("accumulate", 0),
        ("base_batch_size", 0),
        ("mixup", -0.1),
        ("cutmix", None),
        ("augmentation", "strong"),
        ("precision", "float64"),
        ("class_weighting", "inverse"),
        ("gradient_checkpointing", (1, 5)),
        ("layer_decay", 0),
        ("validate_every", 0),
        ("progressive_resizing", 64),
        ("progressive_resizing", (64, 20)),
        ("progressive_resizing", ((16, 20),)),
        ("progressive_resizing", ((64, 0),)),
        ("progressive_resizing", ((64, 20), (96, 11))),  # of 30
        ("seed", -1),
        ("freeze_backbone", "no"),
        ("probe", 1),
        ("augment_on_device", None),
    ],
)
def test_a_wrong_value_is_refused_by_name(field, value):
    with pytest.raises(DMFormerError, match=field):
        Recipe(**{field: value})


def test_arguments_keep_their_positions():
    recipe = Recipe(20, 32, 96, (), 1, 5e-4)
    assert recipe == Recipe(epochs=20, batch_size=32, image_size=96, channels=1, learning_rate=5e-4)
    assert SegmentationRecipe(20, 8, 128).batch_size == 8
    common = [
        "epochs", "batch_size", "image_size", "progressive_resizing", "channels", "learning_rate",
        "base_batch_size", "accumulate", "warmup_epochs", "weight_decay", "layer_decay",
        "augmentation", "stochastic_depth", "dropout", "clip_norm", "ema", "freeze_backbone",
        "gradient_checkpointing", "precision", "class_weighting", "validate_every", "seed",
    ]  # fmt: skip
    for cls, own in (
        (Recipe, ["label_smoothing", "mixup", "cutmix", "augment_on_device"]),
        (
            SegmentationRecipe,
            ["head", "head_channels", "normalization", "schedule", "power", "dice", "lovasz"],
        ),
    ):
        parameters = inspect.signature(cls).parameters.values()
        placed = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        assert placed == [*common, *own]


def test_warmup_follows_the_epochs_unless_given():
    assert [Recipe(epochs=epochs).warmup for epochs in (2, 30, 300)] == [0.2, 3.0, 5.0]
    assert Recipe(epochs=30, warmup_epochs=0).warmup == 0
    assert Recipe(epochs=2, warmup_epochs=2).warmup == 2


def test_images_grow_at_their_epochs():
    recipe = Recipe(epochs=30, progressive_resizing=((64, 20), (96, 6)))
    sizes = [(0, 20, (64, 64)), (20, 26, (96, 96)), (26, 30, (128, 96))]
    assert recipe.phases((128, 96)) == sizes
    assert Recipe(epochs=30).phases((128, 96)) == [(0, 30, (128, 96))]
    smaller = Recipe(epochs=30, progressive_resizing=((64, 20), (96, 10)))
    assert smaller.phases((128, 128)) == [(0, 20, (64, 64)), (20, 30, (96, 96))]
    for sizes, last in (((64, 20),), (64, 64)), (((96, 5), (64, 5)), (128, 128)):
        with pytest.raises(DMFormerError, match="images that grow"):
            dataclasses.replace(recipe, progressive_resizing=sizes).phases(last)


def test_a_recipe_is_data():
    recipe = Recipe(epochs=7, precision="mixed_bfloat16", progressive_resizing=((64, 2),))
    assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", None),
        ("head", "fcn"),
        ("head_channels", 0),
        ("normalization", "layer"),
        ("schedule", "steps"),
        ("power", 0),
        ("dice", -1),
        ("lovasz", float("nan")),
    ],
)
def test_a_wrong_value_of_segmentation_is_refused_by_name(field, value):
    with pytest.raises(DMFormerError, match=field):
        SegmentationRecipe(**{field: value})


@pytest.mark.parametrize(
    ("name", "steps", "warmup_steps"),
    [("ade20k_semantic_fpn", 40_000, 0), ("ade20k_upernet", 160_000, 1_500)],
)
def test_the_paper_s_recipes_have_its_steps(name, steps, warmup_steps):
    recipe = SegmentationRecipe.named(name)
    steps_per_epoch = 20_210 // recipe.batch_size
    assert recipe.batch_size == 16
    assert abs(recipe.epochs * steps_per_epoch - steps) <= steps_per_epoch / 2
    assert round(recipe.warmup * steps_per_epoch) == warmup_steps
    with pytest.raises(DMFormerError, match=name):
        SegmentationRecipe.named("imagenet")


def test_the_learning_rate_follows_the_images_an_update_where_asked_to():
    recipe = Recipe(learning_rate=1e-3, batch_size=64, accumulate=4)
    assert recipe.peak_learning_rate == 1e-3
    scaled = dataclasses.replace(recipe, base_batch_size=1024)
    assert scaled.peak_learning_rate == pytest.approx(0.25e-3)


def test_every_recipe_has_a_name_a_story_and_a_command():
    assert {"imagenet", "ade20k_semantic_fpn", "ade20k_upernet"} <= set(recipes.names())
    for name in recipes.names():
        module = importlib.import_module(f"dmformer_keras.training.recipes.{name}")
        assert type(module.RECIPE).named(name) is module.RECIPE
        for part in ("dmformer train", f"--recipe {name}", "Result", "Cost"):
            assert part in module.__doc__


def test_the_imagenet_recipe_is_the_paper_s():
    recipe = Recipe.named("imagenet")
    assert (recipe.epochs, recipe.batch_size, recipe.peak_learning_rate) == (300, 1024, 1e-3)
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing) == (0.8, 1.0, 0.1)
    assert recipe.changes.rand_augment == (2, 9)
    assert recipe.changes.erasing == 0.25


@pytest.mark.parametrize(
    ("name", "preset", "seed"),
    [("imagenette", "dmformer_t_imagenette", 0), ("mix", "dmformer_n_mix", 1)],
)
def test_a_recipe_made_the_shipped_weights(name, preset, seed):
    made_by = presets.read_preset(preset).metadata["recipe"]
    recipe = json.loads(json.dumps(dataclasses.asdict(Recipe.named(name))))
    assert made_by.pop("seed", 0) == seed
    assert {field: recipe[field] for field in made_by} == made_by


def test_a_recipe_of_another_task_is_not_found():
    with pytest.raises(DMFormerError, match=r"choose one of .*imagenet"):
        Recipe.named("ade20k_upernet")
    with pytest.raises(DMFormerError, match="ade20k_upernet"):
        SegmentationRecipe.named("imagenet")


def test_few_images_are_told_of_the_recipe_for_them():
    whole, bare = read_preset("dmformer_n_imagenette"), read_preset("dmformer_n")
    assert "--recipe few_images" in Recipe().tip(whole, 999)
    assert Recipe().tip(whole, 1000) == ""
    assert Recipe().tip(bare, 10) == ""
    assert Recipe.named("few_images").tip(whole, 10) == ""
    assert Recipe(freeze_backbone=True).tip(whole, 10) == ""
    assert SegmentationRecipe().tip(whole, 10) == ""


def test_images_are_not_compressed_on_the_device():
    assert Recipe(augmentation="degraded").changes.degradation == (24, 64)
    with pytest.raises(DMFormerError, match="leave out augment_on_device"):
        Recipe(augmentation="degraded", augment_on_device=True)
