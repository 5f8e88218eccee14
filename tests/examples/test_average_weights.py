import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import array, tiny_classifier
from PIL import Image

import dmformer_keras

SCRIPT = Path(__file__).parents[2] / "examples" / "average_weights.py"


@pytest.mark.once_under_torch
def test_the_preset_lies_between_both(tmp_path, monkeypatch, capsys):
    for seed, name in enumerate(("one", "other")):
        model = tiny_classifier(num_classes=2, class_names=["cat", "dog"])
        rng = np.random.default_rng(seed)
        model.set_weights([rng.uniform(0.1, 1, weight.shape) for weight in model.weights])
        model.save_to_preset(tmp_path / name)
    for name in ("cat", "dog"):
        folder = tmp_path / "photos" / "train" / name
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (70, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    names = [str(tmp_path / name) for name in ("one", "other")]
    options = ["--data", str(tmp_path / "photos"), "--image-size", "64", "--share", "0.25"]
    arguments = [*names, *options, "--output", str(tmp_path / "between")]
    for wrong, told in (
        (["--images", "0"], "must be 1 or more"),
        (["--output", str(tmp_path / "one")], "one exists already"),
    ):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, *wrong])
        with pytest.raises(SystemExit):
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert told in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    one, other, between = (
        dmformer_keras.load(tmp_path / name, (64, 64)) for name in ("one", "other", "between")
    )
    assert list(between.class_names) == ["cat", "dog"]
    for found, a, b in zip(
        between.trainable_weights, one.trainable_weights, other.trainable_weights, strict=True
    ):
        found, a, b = (array(value) for value in (found, a, b))
        np.testing.assert_allclose(found, 0.75 * a + 0.25 * b, rtol=1e-5)
    # BatchNorm's statistics are those of the images, not the average of both.
    means = [
        [array(weight) for weight in model.non_trainable_weights if "moving_mean" in weight.path]
        for model in (one, other, between)
    ]
    for a, b, found in zip(*means, strict=True):
        assert np.abs(found - (0.75 * a + 0.25 * b)).max() > 0.01
