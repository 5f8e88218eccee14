import functools
import importlib
from pathlib import Path

import pytest
from helpers import images
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """A function that imports a script of `examples/` by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A function that exports each model once in each form, and returns the path of the file."""

    @functools.cache
    def export(form, make):
        return form(make(), tmp_path_factory.mktemp(make.__name__))

    return export


@pytest.fixture(scope="session")
def photograph(tmp_path_factory):
    """A JPEG of blobs, stored lying: upright it is 150 wide and 200 high."""
    path = tmp_path_factory.mktemp("photographs") / "photo.jpg"
    blobs = Image.fromarray(images(5, 7, 3).astype("uint8"))
    exif = Image.Exif()
    exif[0x0112] = 6
    blobs.resize((200, 150), Image.Resampling.BICUBIC).save(path, exif=exif, quality=95)
    return path
