"""Runs of segmenters: what they learn, their folder, their continuation, hard data."""

import csv
import dataclasses
import itertools
import json
import shutil

import keras
import numpy as np
import pytest
from helpers import TINIEST, array, shapes, tiny_backbone
from PIL import Image

from dmformer_keras import DMFormerError, SemanticFPN
from dmformer_keras.data import open_source
from dmformer_keras.training import (
    SegmentationRecipe,
    evaluate_segmenter,
    load_trained,
    train,
)
from dmformer_keras.training.tasks import class_weights, task_of

# They compile and trace for minutes. `test_live_teacher.py` trains a segmenter on TensorFlow.
pytestmark = pytest.mark.slow(on=["jax", "tensorflow"])

RECIPE = SegmentationRecipe(
    epochs=4,
    batch_size=4,
    image_size=48,
    learning_rate=3e-3,
    warmup_epochs=0.5,
    augmentation="standard",
    head_channels=16,
    stochastic_depth=0.1,
    class_weighting="log_frequency",
    dice=0.5,
    layer_decay=0.9,
    seed=5,
)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A folder with a tiny backbone's weights."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    tiny_backbone(input_shape=(None, None, 3), **TINIEST).save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def finished(preset, tmp_path_factory, copied_after):
    """(folder, evaluation) of a run that went through; its folder after two epochs is beside it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with copied_after(2, folder, folder.with_name("stopped")):
        return folder, train(RECIPE, preset, shapes(24), folder, verbose=0)


def weights_of(folder):
    (path,) = (folder / "checkpoint").glob("*.keras")
    model = keras.saving.load_model(path)
    return [array(variable) for variable in model.weights + model.optimizer.variables]


def test_the_folder_tells_everything(finished):
    folder, evaluation = finished
    model = load_trained(folder)
    assert isinstance(model, SemanticFPN)
    assert model.class_names == ["ground", "box", "disc"]
    assert model.input.shape == (None, None, None, 3)
    again = evaluate_segmenter(model, open_source(shapes(24), "val", task="segment"))
    assert again.metrics() == evaluation.metrics()
    report = json.loads((folder / "report.json").read_text())
    assert report["validation"]["miou"] == evaluation.miou
    assert report["validation"]["class_iou"] == evaluation.class_iou
    assert report["validation"]["confusion_matrix"] == evaluation.confusion.tolist()
    for name in ("curves.png", "confusion_matrix.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    best = max(float(row["val_miou"]) for row in history)
    assert best == pytest.approx(evaluation.miou)
    assert len(history) == 4


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(finished, preset, tmp_path):
    folder, evaluation = finished
    shutil.copytree(folder.with_name("stopped"), tmp_path / "run")
    resumed = train(RECIPE, preset, shapes(24), tmp_path / "run", resume=True, verbose=0)
    assert resumed.metrics() == evaluation.metrics()
    for one, other in zip(weights_of(tmp_path / "run"), weights_of(folder), strict=True):
        np.testing.assert_array_equal(one, other)
    other = dataclasses.replace(RECIPE, dice=1.0)
    with pytest.raises(DMFormerError, match="dice"):
        train(other, preset, shapes(24), tmp_path / "run", resume=True, verbose=0)
    with pytest.raises(DMFormerError, match="training images"):
        train(RECIPE, preset, shapes(24, seed=1), tmp_path / "run", resume=True, verbose=0)


def test_validation_now_and_then_and_at_the_end(preset, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=3, validate_every=2, layer_decay=1.0)
    evaluation = train(recipe, preset, shapes(12), tmp_path / "run", verbose=0)
    with open(tmp_path / "run" / "history.csv", newline="", encoding="utf-8") as file:
        validated = [row["val_miou"] for row in csv.DictReader(file)]
    assert validated[0] == ""
    assert max(map(float, validated[1:])) == pytest.approx(evaluation.miou)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_on_hard_data(precision, preset, tmp_path):
    pictures, masks, names = shapes(6)
    masks[::2] = 255  # half the images have no class at all, one class never occurs
    recipe = SegmentationRecipe(
        epochs=1, batch_size=1, image_size=48, head_channels=8, precision=precision, dice=0.5,
        lovasz=0.5, class_weighting="median_frequency", learning_rate=1e-3, warmup_epochs=0,
    )  # fmt: skip
    data = (pictures, masks, [*names, "never"])
    evaluation = train(recipe, preset, data, tmp_path / "run", verbose=0)
    assert evaluation.class_iou["never"] in (None, 0.0)
    assert all(
        np.isfinite(array(weight)).all() for weight in load_trained(tmp_path / "run").weights
    )


@pytest.mark.once_under_torch
def test_another_training_starts_from_a_segmenter_s_head_for_the_same_classes(finished, tmp_path):
    folder, _ = finished
    SemanticFPN.from_preset(folder, activation="softmax").save_to_preset(tmp_path / "softmax")
    source = open_source(shapes(8), "all", task="segment")
    task = task_of(dataclasses.replace(RECIPE, head_channels=None))
    trained = load_trained(folder)
    again = task.build(tmp_path / "softmax", source, {}, (None, None))
    assert again.activation == "linear"
    x = source.read(0)[0][None].astype("float32")
    np.testing.assert_allclose(array(again(x)), array(trained(x)), atol=1e-4)
    source.class_names = source.class_names[::-1]
    renamed = task.build(folder, source, {}, (None, None))
    np.testing.assert_array_equal(array(renamed.backbone(x)), array(trained.backbone(x)))
    assert np.abs(array(renamed(x)) - array(trained(x))).max() > 1e-2


@pytest.mark.once_under_torch
def test_masks_without_any_class_stop_before_training(preset, tmp_path):
    pictures, masks, names = shapes(6)
    with pytest.raises(DMFormerError, match="all are ignored"):
        train(RECIPE, preset, (pictures, np.full_like(masks, 255), names), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.once_under_torch
def test_masks_without_any_class_are_refused_by_class_weighting():
    with pytest.raises(DMFormerError, match="No pixel"):
        class_weights([0, 0], "log_frequency")


def save_data(folder, pictures, masks, names):
    """The same pairs to train on and to validate with."""
    for split, kind in itertools.product(("train", "val"), ("images", "masks")):
        (folder / split / kind).mkdir(parents=True)
        for number, pixels in enumerate(pictures if kind == "images" else masks):
            Image.fromarray(pixels).save(folder / split / kind / f"{number}.png")
    lines = [f"{index}\t{name}\n" for index, name in enumerate(names)]
    (folder / "classes.tsv").write_text("".join(lines))


@pytest.mark.slow
def test_eight_pairs_are_learned_by_heart(tmp_path, request):
    """Real pairs where they are at hand, made-up ones otherwise."""
    try:
        data = request.getfixturevalue("real_data") / "camvid" / "camvid_360x480.zip"
        source = open_source(data, "train", task="segment")
        pairs = [source.read(index) for index in range(0, 80, 10)]
        # Squares with every class, which training without augmentation sees whole, enlarged
        # twice: the head's finest map has a cell every 4 pixels, and a pole is 2 or 3 wide.
        part = (slice(144, 256), slice(84, 196))
        pictures = np.stack([image[part] for image, _ in pairs]).repeat(2, 1).repeat(2, 2)
        masks = np.stack([mask[part] for _, mask in pairs]).repeat(2, 1).repeat(2, 2)
        names = source.class_names
    except pytest.skip.Exception:
        pictures, masks, names = shapes(8, (224, 224))
    save_data(tmp_path / "data", pictures, masks, names)
    recipe = SegmentationRecipe(
        epochs=350, batch_size=4, image_size=224, augmentation="none", learning_rate=5e-3,
        warmup_epochs=20, schedule="cosine", clip_norm=5.0, dice=1.0, head_channels=64,
        stochastic_depth=0.0, dropout=0.0, validate_every=70,
    )  # fmt: skip
    train(recipe, "dmformer_n", tmp_path / "data", tmp_path / "run", verbose=2)
    learned = open_source((pictures, masks, names), "all", task="segment")
    assert evaluate_segmenter(load_trained(tmp_path / "run"), learned).miou >= 0.95
