"""examples/mobile runs exported files where nothing of this package can be imported."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from exported_files import (
    COLORS,
    NAMES,
    SIZE,
    classifier,
    float32,
    in_percent,
    int8,
    onnx,
    outputs_of,
    segmenter,
    tflite,
)
from PIL import Image

from dmformer_keras.data import load_image
from dmformer_keras.export import load_exported

pytestmark = pytest.mark.backend_independent

MOBILE = Path(__file__).parents[2] / "examples" / "mobile"
# What a phone's or a server's program does not have.
ABSENT = ("dmformer_keras", "keras", "tensorflow", "torch", "jax")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs the example for a file, in a Python without what is `ABSENT`."""
    folder = tmp_path_factory.mktemp("absent")
    # Python imports this before anything else; None in sys.modules is what cannot be imported.
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}

    def process(path, *arguments, code=0):
        finished = subprocess.run(
            [sys.executable, MOBILE / f"run_{path.suffix[1:]}.py", path, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )
        assert finished.returncode == code, finished.stderr
        return finished.stdout if code == 0 else finished.stderr

    for package in ABSENT:
        tried = subprocess.run([sys.executable, "-c", f"import {package}"], env=environment)
        assert tried.returncode, f"{package} can be imported"
    return process


def percentages(printed):
    return {name: float(share) for share, name in re.findall(r"([\d.]+)%  (\w+)", printed)}


@pytest.mark.parametrize("form", [float32, int8, onnx])
def test_classes_are_those_of_the_package(form, exported, run, photograph):
    path = exported(form, classifier)
    printed = percentages(run(path, photograph, "--threads", 1))
    logits = outputs_of(path, photograph)
    likeliest = np.argsort(-logits, kind="stable")[:3]
    assert list(printed) == [NAMES[index] for index in likeliest]
    expected = in_percent(logits)[likeliest]
    np.testing.assert_allclose(list(printed.values()), expected, atol=0.06)


@pytest.mark.parametrize("form", [float32, int8, pytest.param(onnx, marks=pytest.mark.slow)])
def test_mask_is_that_of_the_package(form, exported, run, photograph, tmp_path):
    path = exported(form, segmenter)
    folder = tmp_path / "new" / "folder"
    printed = run(path, photograph, "--threads", 1, "--output", folder)
    mask = Image.open(folder / "photo_mask.png")
    expected = outputs_of(path, photograph).argmax(-1)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(np.asarray(mask), expected)
    colors = np.asarray(COLORS)[expected]
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), colors)
    overlay = np.asarray(Image.open(folder / "photo_overlay.png"), np.float32)
    np.testing.assert_allclose(overlay, (load_image(photograph, SIZE) + colors) / 2, atol=1)
    shares = np.bincount(expected.ravel(), minlength=len(NAMES)) / expected.size
    order = [index for index in np.argsort(-shares, kind="stable") if shares[index]]
    assert list(percentages(printed)) == [NAMES[index] for index in order]
    np.testing.assert_allclose(list(percentages(printed).values()), 100 * shares[order], atol=0.06)


def test_a_file_of_several_images_of_one_channel(run, photograph, tmp_path):
    model = classifier(class_names=None, input_shape=(64, 64, 1))
    path = tflite(model, tmp_path / "grey.tflite", batch_size=2)
    printed = run(path, photograph, photograph, "--threads", 1)
    pixels = load_image(photograph, 64, channels=1)
    logits = load_exported(path, threads=1).predict_on_batch(pixels[None])[0]
    expected = [str(index) for index in np.argsort(-logits, kind="stable")[:3]]
    assert re.findall(r"%  (\d)", printed) == 2 * expected


def test_a_file_of_any_size_asks_for_one(run, photograph, tmp_path):
    path = tflite(classifier(input_shape=(None, None, 3)), tmp_path / "any.tflite", resizable=True)
    assert "--size is required for" in run(path, photograph, code=2)
    printed = percentages(run(path, photograph, "--threads", 1, "--size", *SIZE))
    likeliest = np.argsort(-outputs_of(path, photograph), kind="stable")[:3]
    assert list(printed) == [NAMES[index] for index in likeliest]


@pytest.mark.parametrize("runtime", ["ai_edge_litert", "onnxruntime"])
def test_what_is_no_model_is_named(runtime, run, photograph, tmp_path):
    pytest.importorskip(runtime)
    path = tmp_path / ("broken.onnx" if runtime == "onnxruntime" else "broken.tflite")
    assert "There is no file" in run(path, photograph, code=2)
    path.write_bytes(b"broken")
    error = run(path, photograph, code=1)
    assert f"{path} is no" in error
    assert "Traceback" not in error


def test_what_is_no_image_is_named(exported, run, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    error = run(exported(float32, classifier), text, code=1)
    assert f"{text} cannot be read as an image" in error
    assert "Traceback" not in error


def test_the_page_shows_what_is_in_a_file(exported):
    """The description in docs/mobile.md has the keys of a real one; `unzip` finds the labels."""
    page = MOBILE.parents[1] / "docs" / "mobile.md"
    shown = json.loads(re.search(r"```json\n(.+?)```", page.read_text("utf-8"), re.DOTALL)[1])
    with zipfile.ZipFile(exported(float32, segmenter)) as archive:
        description = json.loads(archive.read("model.json"))
        assert archive.read("labels.txt").decode().split() == NAMES
    assert shown.keys() == description.keys()
    assert shown["input"].keys() == description["input"].keys()
    assert shown["output"].keys() == description["output"].keys()
