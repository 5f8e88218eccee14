"""A folder of pictures and a model trained on it by the command line, once."""

import numpy as np
import pytest
from helpers import TO_TRAIN, tiny_classifier
from PIL import Image

from dmformer_keras.cli import main


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of two class folders with PNG files: dark ones and bright ones."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 160)):
        (folder / name).mkdir()
        for number in range(20):
            pixels = low + rng.integers(0, 90, (40, 50, 3))
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    tiny_classifier(num_classes=3, input_shape=(32, 32, 3), **TO_TRAIN).save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def train_arguments(pictures, tiny_preset):
    """Everything of a small training but its output folder."""
    return [
        "train", "--data", str(pictures), "--preset", str(tiny_preset), "--epochs", "2",
        "--batch-size", "8", "--augmentation", "none", "--learning-rate", "3e-3",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def trained(train_arguments, tmp_path_factory):
    """The folder of a model that `dmformer train` made."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert main([*train_arguments, "--output", str(folder)]) == 0
    return folder
