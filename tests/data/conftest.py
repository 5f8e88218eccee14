"""Small image folders made on the spot."""

import zipfile

import pytest
from image_files import encode, random_image


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
