"""The scripts in examples/ that use KerasCV run from start to end."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytest.importorskip("keras_cv", reason="the examples use KerasCV")
EXAMPLES = Path(__file__).parents[2] / "examples"

# JAX compiles for minutes on a CPU.
pytestmark = pytest.mark.slow(on="jax")


@pytest.mark.parametrize(
    ("script", "arguments", "package"),
    [
        ("keras_cv_classification.py", ["--epochs", "1"], "sklearn"),
        ("keras_cv_segmentation.py", ["--epochs", "1", "--images", "16"], "tensorflow"),
    ],
)
def test_example(script, arguments, package, tmp_path):
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
