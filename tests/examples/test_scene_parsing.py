"""`examples/scene_parsing.py`: masks of polygons, as the package reads them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmformer_keras.data import open_source

SCRIPT = Path(__file__).parent.parent.parent / "examples" / "scene_parsing.py"
pytestmark = [
    pytest.mark.backend_independent,
    pytest.mark.skipif(not SCRIPT.is_file(), reason="not a source checkout"),
]


def xml(*objects):
    """An annotation as MiniPlaces has it: elements without a root, corners counted from 1."""
    text = "<filename>1.jpg</filename>\n<class>0</class>\n"
    for label, left, top, right, bottom in objects:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        points = "".join(f"<pt><x>{x + 1}</x><y>{y + 1}</y></pt>" for x, y in corners)
        text += f"<objects><class>{label}</class><polygon>{points}</polygon></objects>\n"
    return text


@pytest.fixture
def miniplaces(tmp_path):
    # The picture is listed before the wall that it hangs on.
    annotation = xml((1, 10, 10, 19, 19), (0, 0, 0, 39, 29))
    for split in ("train", "val"):
        for kind in ("images", "objects"):
            (tmp_path / "data" / kind / split / "r" / "room").mkdir(parents=True)
        for number in range(3):
            name = Path(split, "r", "room", f"{number}")
            noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), "uint8")
            Image.fromarray(noise).save(tmp_path / "data" / "images" / f"{name}.jpg")
            (tmp_path / "data" / "objects" / f"{name}.xml").write_text(annotation)
    (tmp_path / "names.txt").write_text("wall 0\n\npicture_frame 1\n")
    return tmp_path


def run(folder):
    arguments = [folder / "data", "--names", folder / "names.txt", "--output", folder / "scenes"]
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=60
    )


def test_polygons_become_masks_that_the_package_reads(miniplaces):
    assert run(miniplaces).stdout == "train: 3 images\nval: 3 images\n"
    source = open_source(miniplaces / "scenes", "val", task="segment")
    assert source.class_names == ["wall", "picture frame"]
    _, mask = source.read(1)
    expected = np.full((40, 40), 255)
    expected[:30, :40] = 0
    expected[10:20, 10:20] = 1
    np.testing.assert_array_equal(mask, expected)
    again = run(miniplaces)
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists already" in again.stderr


@pytest.mark.parametrize("names", [None, "wall 0 1\n", "wall zero\n"])
def test_a_wrong_list_of_names_is_told_and_nothing_written(miniplaces, names):
    if names is None:
        (miniplaces / "names.txt").unlink()
    else:
        (miniplaces / "names.txt").write_text(names)
    found = run(miniplaces)
    assert found.returncode == 1
    assert "names.txt is no list of a name and a number per line" in found.stderr
    assert not (miniplaces / "scenes").exists()


def test_another_folder_is_refused(tmp_path):
    (tmp_path / "names.txt").touch()
    found = run(tmp_path)
    assert found.returncode == 1
    assert "no objects/train" in found.stderr
    assert not (tmp_path / "scenes").exists()
