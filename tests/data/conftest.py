"""Small image folders made on the spot."""

import zipfile

import numpy as np
import pytest
from image_files import encode, random_image, two_classes

from dmformer_keras.data import open_source


@pytest.fixture
def make_folder(tmp_path):
    """Function {relative path: seed of a random image, or bytes} -> folder."""

    def make(files, name="data"):
        root = tmp_path / name
        for path, content in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, int):
                content = encode(random_image(content))
            target.write_bytes(content)
        return root

    return make


@pytest.fixture
def make_zip(tmp_path):
    """Function {member name: bytes or seed} -> path of a zip archive."""

    def make(files, name="data.zip"):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in files.items():
                content = encode(random_image(content)) if isinstance(content, int) else content
                archive.writestr(member, content)
        return path

    return make


@pytest.fixture
def source(make_folder):
    return open_source(make_folder(two_classes(11)), "all")


@pytest.fixture
def masked():
    """Eleven images whose every channel is 40 times their mask, of sizes of their own."""
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 5, (20 + n, 40 - n)).repeat(2, 0).repeat(2, 1) for n in range(11)]
    images = [np.repeat(mask[..., None] * 40, 3, -1).astype(np.uint8) for mask in masks]
    return open_source((images, masks), "all", task="segment")
