"""The best linear head for the features of a backbone."""

import builtins
import json

import keras
import numpy as np
import pytest
from helpers import array, randomize, tiny_classifier

from dmformer_keras.data import open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import Recipe, evaluate, solve_head, train

pytestmark = pytest.mark.slow(on=["jax"])


@pytest.fixture
def source(data):
    return open_source(data, "train", channels=3)


def classifier(classes):
    model = tiny_classifier(classes, input_shape=(32, 32, 3))
    randomize(model)
    return model


def test_the_head_is_the_logistic_regression_of_pooled_features(source):
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = classifier(6)
    backbone = [array(weight) for weight in model.backbone.weights]
    solve_head(model, source, (32, 32))
    for weight, before in zip(model.backbone.weights, backbone, strict=True):
        np.testing.assert_array_equal(array(weight), before)
    images = np.stack([source.read(index)[0] for index in range(len(source))]).astype("float32")
    features = array(keras.ops.mean(model.backbone(images), axis=(1, 2))).astype("float64")
    scores = (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-5)
    solution = linear_model.LogisticRegression(C=0.1, max_iter=1000).fit(scores, source.labels)
    expected = solution.decision_function(scores)
    found = array(model(images))
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.once_under_torch
def test_a_part_of_the_images_is_drawn_from_all_classes(source):
    model, whole = classifier(6), classifier(6)
    read, original = [], source.read
    source.read = lambda index: read.append(index) or original(index)
    solve_head(model, source, (32, 32), most=len(source) // 2)
    assert len(set(read)) == len(read) == len(source) // 2
    assert set(source.labels[read]) == set(range(6))
    del source.read
    assert evaluate(model, source).top1 > 0.6
    solve_head(whole, source, (32, 32))
    solve_head(model, source, (32, 32), most=len(source))
    for found, expected in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.once_under_torch
def test_a_rare_class_is_drawn_too(data):
    images, labels, names = data
    kept = np.flatnonzero(labels == 0).tolist() + np.flatnonzero(labels == 3)[:1].tolist()
    rare = open_source((images[kept], labels[kept], names), "all", channels=3)
    model = classifier(6)
    solve_head(model, rare, (32, 32), most=3)
    assert set(np.argmax(array(model(np.zeros((1, 32, 32, 3)))), -1)) <= {0, 3}


@pytest.mark.once_under_torch
def test_what_has_no_solution_is_refused(data):
    images, labels, names = data
    all_classes = open_source(data, "train", channels=3)
    one_class = open_source((images[labels == 2], labels[labels == 2], names), "all", channels=3)
    two = open_source((images[labels < 2], labels[labels < 2], names[:2]), "all", channels=3)
    for model, source, most, told in (
        (classifier(4), all_classes, None, "the model's classes"),
        (classifier(6), one_class, None, "are of one class"),
        (classifier(1), two, None, "an output for each class"),
        (classifier(6), all_classes, 0, "most must be a whole number"),
        (classifier(6), all_classes, 2.5, "most must be a whole number"),
    ):
        before = model.head.get_weights()
        with pytest.raises(DMFormerError, match=told):
            solve_head(model, source, (32, 32), most=most)
        for found, expected in zip(model.head.get_weights(), before, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.once_under_torch
def test_two_classes_and_classes_without_images(data):
    images, labels, names = data
    two = open_source((images[labels < 2], labels[labels < 2], names[:2]), "all", channels=3)
    model = classifier(2)
    solve_head(model, two, (32, 32))
    assert evaluate(model, two).top1 > 0.7
    chosen = (labels == 0) | (labels == 3) | (labels == 4)
    some = open_source((images[chosen], labels[chosen], names), "all", channels=3)
    model = classifier(6)
    solve_head(model, some, (32, 32))
    assert evaluate(model, some).top1 > 0.6
    assert set(np.argmax(array(model(np.zeros((1, 32, 32, 3)))), -1)) <= {0, 3, 4}


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_a_run_begins_with_the_probe_and_reports_its_accuracy(data, tiny_preset, tmp_path, capsys):
    # Frozen, for an epoch would move BatchNorm's statistics at any learning rate.
    recipe = Recipe(
        epochs=1,
        image_size=32,
        batch_size=16,
        probe=True,
        freeze_backbone=True,
        learning_rate=1e-9,
        augmentation="none",
    )
    evaluation = train(recipe, tiny_preset, data, tmp_path / "run", verbose=2)
    told = f"Linear probe: top-1 {evaluation.top1:.2%} of {evaluation.examples} validation images"
    assert told in capsys.readouterr().out
    probe = json.loads((tmp_path / "run" / "report.json").read_text())["probe"]
    assert probe == {"top1": evaluation.top1, "examples": evaluation.examples}


@pytest.mark.once_under_torch
def test_what_cannot_be_probed_is_refused_before_work(data, tiny_preset, tmp_path, monkeypatch):
    recipe = Recipe(epochs=1, image_size=32, probe=True)
    with pytest.raises(DMFormerError, match="no weights"):
        train(recipe, "dmformer_n", data, tmp_path / "run", verbose=0)
    original = builtins.__import__

    def without_sklearn(name, *arguments, **options):
        if name == "sklearn":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(DMFormerError, match="pip install"):
        train(recipe, tiny_preset, data, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
