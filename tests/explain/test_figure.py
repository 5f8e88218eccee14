"""The pictures of `dmformer explain`."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import tiny_backbone, tiny_classifier
from PIL import Image

from dmformer_keras import DMFormerError, SemanticFPN, classify, fuse
from dmformer_keras.cli import explain, main
from dmformer_keras.data import images, open_source
from dmformer_keras.explain import figure, grad_cam
from dmformer_keras.explain.figure import draw_explanation, draw_gates

pytest.importorskip("matplotlib")
# What is drawn is computed in `test_explain.py`, on each backend.
pytestmark = pytest.mark.once_under_torch
NAMES = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture
def model():
    return tiny_classifier(class_names=NAMES, input_shape=(64, 64, 3))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype("uint8")


def test_the_picture_shows_the_classes_asked_for(model, image, tmp_path):
    found = draw_explanation(model, image, tmp_path / "explained.png", classes=[4, 1])
    assert [cam.class_index for cam in found] == [4, 1]
    probabilities = {name: share for name, share in classify(model, image)}
    assert [cam.share for cam in found] == pytest.approx(
        [probabilities["elk"], probabilities["bee"]], rel=1e-4
    )
    np.testing.assert_array_equal(found[1].heatmap, grad_cam(model, image, 1).heatmap)
    picture = np.asarray(Image.open(tmp_path / "explained.png").convert("RGB"))
    assert picture.shape[0] > 900
    assert picture.std() > 30


def test_models_without_a_gate_of_other_levels_or_fused_are_drawn(image, tmp_path):
    plain = tiny_classifier(use_gate=False, levels=((3, 1),), input_shape=(64, 64, 3))
    for number, model in enumerate((plain, fuse(tiny_classifier(input_shape=(64, 64, 3))))):
        draw_explanation(model, image, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").is_file()


def test_a_segmenter_is_drawn(image, tmp_path):
    model = SemanticFPN(tiny_backbone(), 3, head_channels=8)
    found = draw_explanation(model, image, tmp_path / "explained.png")
    assert 1 <= len(found) <= 2


def test_the_gates_by_class_are_those_of_its_images(model, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 64, 64, 3)).astype("uint8")
    source = open_source((images, [0, 1, 2, 0, 1, 2], NAMES), "all")
    found = draw_gates(model, source, tmp_path / "gates.png", images_per_class=2)
    assert {name for _, name in found} == {"ant", "bee", "cat"}
    stages = model.backbone.get_config()
    width = stages["channels"][2] * stages["depths"][2]
    assert found["stage3", "bee"].shape == (2, width)
    assert (tmp_path / "gates.png").is_file()


def test_the_command(model, image, tmp_path, capsys, monkeypatch):
    model.save_to_preset(tmp_path / "insects")
    Image.fromarray(image).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    command = ["explain", str(tmp_path / "insects")]
    assert main([*command, "photo.png", "--class", "cat"]) == 0
    assert re.match(r"cat: \d+\.\d %\n", capsys.readouterr().out)
    assert (tmp_path / "photo_explained.png").is_file()
    for wrong, sentence in (
        (["photo.png", "--class", "fox"], "no class 'fox'"),
        (["photo.png", "--output", "picture.jpg"], "must end in .png"),
        (["photo.png", "--output", "no/where.png"], "no folder"),
        ([], "takes an image, or --data"),
    ):
        assert main([*command, *wrong]) == 1
        assert sentence in capsys.readouterr().err


def test_matplotlib_is_asked_for(model, image, tmp_path, monkeypatch):
    monkeypatch.setattr("dmformer_keras.explain.figure.can_draw", lambda: False)
    with pytest.raises(DMFormerError, match="plots"):
        draw_explanation(model, image, tmp_path / "explained.png")


def test_a_very_large_photograph_is_reduced_while_it_is_decoded(monkeypatch, tmp_path):
    segmenter = SemanticFPN(tiny_backbone(input_shape=(None, None, 3)), 3, head_channels=8)
    monkeypatch.setattr(explain, "load", lambda *_: segmenter)
    seen = []
    monkeypatch.setattr(
        figure, "draw_explanation", lambda model, image, *_: seen.append(image.shape) or []
    )
    Image.new("RGB", (256, 192)).save(tmp_path / "photo.jpg")
    given = {"model": "x", "image_size": None, "data": None, "classes": None}
    args = SimpleNamespace(
        **given, image=str(tmp_path / "photo.jpg"), output=str(tmp_path / "e.png")
    )
    explain.run(args)
    monkeypatch.setattr(images, "KEPT_PIXELS", 128 * 96)
    explain.run(args)
    assert seen == [(192, 256, 3), (96, 128, 3)]
