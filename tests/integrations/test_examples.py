"""The scripts and the notebook in examples/ run from start to end."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import TINIEST, tiny_classifier
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"

# JAX compiles for minutes on a CPU.
pytestmark = pytest.mark.slow(on=["jax"])
slow_on_tensorflow = pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Runs an example in a new folder, in this process, which has imported the libraries."""

    def run(script, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("script", "arguments", "packages"),
    [
        pytest.param(
            "classification_keras_cv.py",
            ["--epochs", "1"],
            ["keras_cv", "sklearn"],
            marks=slow_on_tensorflow,
        ),
        pytest.param(
            "segmentation_keras_cv.py",
            ["--epochs", "1", "--images", "16"],
            ["keras_cv"],
            marks=slow_on_tensorflow,
        ),
        pytest.param(
            "segmentation_keras_hub.py",
            ["--epochs", "1", "--images", "16"],
            ["keras_hub"],
            marks=slow_on_tensorflow,
        ),
        pytest.param(
            "tf_data.py",
            ["--epochs", "1", "--images", "10"],
            ["tensorflow"],
            marks=slow_on_tensorflow,
        ),
    ],
)
def test_example(script, arguments, packages, tmp_path, run_here):
    for package in packages:
        pytest.importorskip(package)
    told = run_here(script, *arguments, "--output", "model.keras")
    assert "saved to model.keras" in told
    assert (tmp_path / "model.keras").is_file()


@pytest.mark.slow(on=["torch"])  # which converts in processes of their own, by TensorFlow
def test_tflite_example(tmp_path, run_here, measured_here):
    for package in ("tensorflow", "ai_edge_litert"):
        pytest.importorskip(package)
    tiny_classifier(class_names=list("abcde"), **TINIEST).save_to_preset(tmp_path / "preset")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    told = run_here("tflite.py", "photo.png", "--model", "preset", "--output", "model.tflite")
    assert told.count("photo.png: ") == 2
    small, whole = (tmp_path / name for name in ("model.int8.tflite", "model.tflite"))
    assert small.stat().st_size < whole.stat().st_size


@slow_on_tensorflow
def test_distributed_example(tmp_path):
    pytest.importorskip("sklearn")
    options = [EXAMPLES / "distributed.py", "--epochs", "1", "--images-per-epoch", "128",
               "--output", "run"]  # fmt: skip
    if keras.config.backend() == "torch":
        options = ["-m", "torch.distributed.run", "--nproc-per-node=2", *options]
    else:
        options += ["--processors", "2"]
    told = run_processes(options, tmp_path)
    assert "2 devices" in told
    assert told.count("saved to run, ") == 1
    assert (tmp_path / "run" / "model.weights.h5").is_file()


@slow_on_tensorflow
def test_notebook(tmp_path, monkeypatch):
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    for package in ("matplotlib", "tensorflow"):
        pytest.importorskip(package)
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    for cell in notebook.cells:  # the short form
        cell.source = cell.source.replace("draw(160)", "draw(40)").replace("epochs=5", "epochs=1")
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    told = "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )  # fmt: skip
    assert "P5 (1, 3, 4, 192)" in told
    assert "of 6 classes are the same" in told


def run_processes(command, folder):
    """Runs Python in a folder, under this backend, and returns what it printed."""
    process = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": keras.config.backend()},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout
