"""`benchmarks/scenes.py`: both heads from each start, trained alike, in one table."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parent.parent.parent / "benchmarks"
pytestmark = [
    pytest.mark.once_under_torch,
    pytest.mark.skipif(not SCRIPTS.is_dir(), reason="not a source checkout"),
]


@pytest.fixture
def scenes(tmp_path):
    """`rooms/`: four training and two validation images with a wall and a floor."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "rooms" / split / kind).mkdir(parents=True)
        for index in range(number):
            image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), "uint8"))
            image.save(tmp_path / "rooms" / split / "images" / f"{index}.jpg")
            mask = np.repeat([0, 1], 16)[:, None] * np.ones((1, 32))
            mask[:4] = 255
            name = tmp_path / "rooms" / split / "masks" / f"{index}.png"
            Image.fromarray(mask.astype("uint8")).save(name)
    (tmp_path / "rooms" / "classes.tsv").write_text("0\twall\n1\tfloor\n255\tvoid\n")
    return tmp_path


def compare(folder, script, monkeypatch, *options):
    command = [
        "scenes.py", "--data", str(folder / "rooms"), "--presets", "dmformer_n_imagenette",
        "random", "--architecture", "dmformer_n", "--runs", str(folder / "runs"),
        "--output", str(folder / "results"), *options,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    script("scenes").main()
    return (folder / "results" / "results.md").read_text()


def taken(options, name):
    """The value of an option, which is taken out with its name."""
    place = options.index(name)
    options.pop(place)
    return options.pop(place)


def test_every_start_is_trained_with_both_heads_by_the_same_options(tmp_path, script, monkeypatch):
    trained = {}

    def train_once(output, *options):
        trained[output.name] = options
        found = {"miou": len(trained) / 10, "pixel_accuracy": len(trained) / 8, "examples": 371}
        return {"training_images": 3502, "validation": found}

    monkeypatch.setattr(script("scenes"), "train_once", train_once)
    results = compare(tmp_path, script, monkeypatch)
    assert "| dmformer_n_imagenette | 10.00 | 12.50 | 20.00 | 25.00 |" in results
    assert "| random | 30.00 | 37.50 | 40.00 | 50.00 |" in results
    runs = [list(options) for options in trained.values()]
    starts = [tuple(taken(run, option) for option in ("--preset", "--recipe")) for run in runs]
    assert starts == [
        (start, recipe)
        for start in ("dmformer_n_imagenette", "dmformer_n")
        for recipe in ("ade20k_semantic_fpn", "ade20k_upernet")
    ]
    assert all(run == runs[0] for run in runs)
    with pytest.raises(SystemExit, match="holds runs of other settings"):
        compare(tmp_path, script, monkeypatch, "--epochs", "3")


def test_a_preset_without_weights_is_refused_before_any_training(tmp_path, script, monkeypatch):
    with pytest.raises(SystemExit, match="dmformer_n has no weights"):
        compare(tmp_path, script, monkeypatch, "--presets", "dmformer_n")


def test_frozen_backbones_and_seeds_have_columns_and_runs_of_their_own(
    tmp_path, script, monkeypatch
):
    trained = []

    def train_once(output, *options):
        trained.append((output.name, options))
        miou = (2 if "--freeze-backbone" in options else 5) / 10
        miou += taken(list(options), "--seed") / 10
        found = {"miou": miou, "pixel_accuracy": 0.75, "examples": 101}
        return {"training_images": 367, "validation": found}

    monkeypatch.setattr(script("scenes"), "train_once", train_once)
    options = ("--recipes", "camvid", "--frozen", "--seeds", "2")
    results = compare(tmp_path, script, monkeypatch, *options)
    assert "| start | Semantic FPN, frozen backbone, mIoU |" in results
    assert "| 25.00 (20.00, 30.00) | 75.00 | 55.00 (50.00, 60.00) | 75.00 |" in results
    assert "| random | not measured | not measured | 55.00 (50.00, 60.00) | 75.00 |" in results
    assert len({name for name, _ in trained}) == len(trained) == 6
    for name, options in trained:
        assert ("--freeze-backbone" in options) == ("adamw" in options) == ("frozen" in name)


@pytest.mark.slow
def test_the_table_has_what_the_trainings_report(scenes, script, monkeypatch):
    small = ("--epochs", "1", "--image-size", "32", "--batch-size", "2", "--head-channels", "16")
    results = compare(scenes, script, monkeypatch, *small)
    reports = sorted((scenes / "runs").glob("*/report.json"))
    assert len(reports) == 4
    for path in reports:
        found = json.loads(path.read_text())["validation"]
        assert found["examples"] == 2
        assert f"{100 * found['miou']:.2f} | {100 * found['pixel_accuracy']:.2f}" in results
