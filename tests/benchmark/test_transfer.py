"""`benchmarks/transfer.py`: what it takes of the data, and a whole comparison of tiny size."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmformer_keras.data import open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import Recipe

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "transfer.py"
pytestmark = [
    pytest.mark.once_under_torch,
    pytest.mark.skipif(not SCRIPT.is_file(), reason="not a source checkout"),
]


@pytest.fixture
def folder(tmp_path):
    """`trees/`: 20 and 12 training images and 4 test images of each class."""
    rng = np.random.default_rng(0)
    for split, numbers in (("train", (20, 12)), ("test", (4, 4))):
        for name, number in zip(("ash", "oak"), numbers, strict=True):
            (tmp_path / "trees" / split / name).mkdir(parents=True)
            for index in range(number):
                image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), "uint8"))
                image.save(tmp_path / "trees" / split / name / f"{index:02}.png")
    return tmp_path


def pixels(folder):
    """The images of a folder of class folders, each with its class."""
    return {
        (path.parent.name, np.asarray(Image.open(path)).tobytes()) for path in folder.rglob("*.png")
    }


def command(folder, *options):
    return [
        sys.executable, SCRIPT, "--data", folder / "trees", "--images-per-class", "14",
        "--epochs", "1", "--image-size", "32", "--seeds", "1", "--runs", folder / "runs",
        "--output", folder / "results", *options,
    ]  # fmt: skip


def run(folder, *options):
    return subprocess.run(command(folder, *options), capture_output=True, text=True, check=False)


def test_some_of_each_class_are_trained_on_and_all_test_images_measured(folder, script):
    script("transfer").take_part(folder / "trees", 14, folder / "part")
    part = open_source(folder / "part", "train")
    assert np.bincount(part.labels).tolist() == [14, 12]
    assert pixels(folder / "part" / "train") < pixels(folder / "trees" / "train")
    assert pixels(folder / "part" / "val") == pixels(folder / "trees" / "test")


def test_without_test_images_a_tenth_is_held_out(folder, script):
    script("transfer").take_part(folder / "trees" / "train", 100, folder / "part")
    train, test = (pixels(folder / "part" / split) for split in ("train", "val"))
    assert not train & test
    assert train | test == pixels(folder / "trees" / "train")
    assert 1 < len(test) < 5


@pytest.mark.parametrize(
    ("preset", "architecture", "message"),
    [
        ("dmformer_t_imagenette", "dmformer_n", "differ in channels"),
        ("dmformer_t_imagenette", "dmformer_t_imagenette", "must have no weights"),
        ("dmformer_t", "dmformer_t", "has no weights"),
    ],
)
def test_what_does_not_compare_is_refused(
    preset, architecture, message, folder, script, monkeypatch
):
    options = ["--presets", preset, "--architecture", architecture]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command(folder, *options)[1:]])
    with pytest.raises(SystemExit, match=message):
        script("transfer").main()
    assert not (folder / "runs").exists()


def test_a_damaged_test_image_is_told_and_no_other_split_is_measured(folder, script):
    probe = script("probe")
    (folder / "trees" / "test" / "ash" / "00.png").write_bytes(b"no image")
    assert probe.tested_split(folder / "trees") == "test"
    assert probe.tested_split(folder / "trees" / "train") == "val"
    with pytest.raises(DMFormerError, match=r"00\.png"):
        probe.tested_part(folder / "trees", seed=0)


def test_two_data_sets_of_one_name_are_refused(folder, script, monkeypatch):
    twice = command(folder, "--presets", "random", "--data", "a/trees", "b/trees")
    monkeypatch.setattr(sys, "argv", [str(part) for part in twice[1:]])
    with pytest.raises(SystemExit, match="Two data sets are called trees"):
        script("transfer").main()


@pytest.mark.parametrize("kept", ["one/report.json", "trees/data/train/ash/0.png"])
def test_runs_that_no_settings_tell_of_are_refused(kept, tmp_path, script):
    (tmp_path / kept).parent.mkdir(parents=True)
    (tmp_path / kept).touch()
    with pytest.raises(SystemExit, match=r"no settings\.json"):
        script("jobs").check_same_settings(tmp_path, {"epochs": 3})


def test_a_field_that_a_recipe_got_later_has_its_default(script):
    are_same, now = script("jobs").are_same, dataclasses.asdict(Recipe(epochs=3))
    before = {name: value for name, value in now.items() if name != "probe"}
    assert are_same({"recipe": before}, {"recipe": now})
    assert not are_same({"recipe": before}, {"recipe": {**now, "probe": True}})
    assert not are_same({"recipe": before, "data": "a"}, {"recipe": now, "data": "b"})


def test_a_finished_measurement_is_not_done_again(tmp_path, script):
    once = script("jobs").measured_once
    assert once(tmp_path / "probe.json", lambda: 0.25) == 0.25
    assert once(tmp_path / "probe.json", lambda: pytest.fail("measured again")) == 0.25


@pytest.mark.slow
def test_one_starts_from_the_weights_and_one_from_none(folder):
    starts = ("--presets", "dmformer_n_imagenette", "random", "--architecture", "dmformer_n")
    finished = run(folder, *starts)
    assert finished.returncode == 0, finished.stderr
    results = (folder / "results" / "results.md").read_text()
    for name, start in (
        ("dmformer_n_imagenette-*", "dmformer_n_imagenette"),
        ("random", "dmformer_n"),
    ):
        (path,) = (folder / "runs" / "trees").glob(f"{name}-0/report.json")
        report = json.loads(path.read_text())
        assert report["preset"] == start
        assert report["validation"]["examples"] == 8
        assert ("probe" in report) == (name != "random")
        assert report["recipe"]["epochs"] == report["recipe"]["validate_every"] == 1
        for measured in ("validation", "probe"):
            if measured in report:
                assert f"{100 * report[measured]['top1']:.2f}" in results
    probe = json.loads((folder / "runs" / "trees" / "random-0-probe.json").read_text())
    assert f"{100 * probe:.2f}" in results
    refused = run(folder, *starts, "--image-size", "48")
    assert refused.returncode == 1
    assert "holds runs of other settings" in refused.stderr
