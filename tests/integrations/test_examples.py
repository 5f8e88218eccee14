"""The scripts in examples/ run from start to end."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# JAX compiles for minutes on a CPU.
pytestmark = pytest.mark.slow(on=["jax"])
slow_on_tensorflow = pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute


@pytest.mark.parametrize(
    ("script", "arguments", "packages"),
    [
        ("classification_keras_cv.py", ["--epochs", "1"], ["keras_cv", "sklearn"]),
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
    ],
)
def test_example(script, arguments, packages, tmp_path):
    for package in packages:
        pytest.importorskip(package)
    process = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments, "--output", "model.keras"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": keras.config.backend()},
    )
    assert process.returncode == 0, process.stderr
    assert "saved to model.keras" in process.stdout
    assert (tmp_path / "model.keras").is_file()
