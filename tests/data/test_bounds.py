"""Archives with very many entries or classes: time grows with them, and what no one means ends."""

import time
import zipfile

import pytest
from image_files import encode, random_image

from dmformer_keras.cli.predict import unique_names
from dmformer_keras.data import open_source
from dmformer_keras.data.splits import carve
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent

IMAGE = encode(random_image(0, 2, 2))
LAYOUTS = {
    "many classes": lambda number: (f"{number}/a.png", f"{number}/b.png"),
    "many images": lambda number: (f"{number % 2}/{number}.png",),
    "many other files": lambda number: (f"{number % 2}/{number}.txt", f"{number % 2}/a{number}"),
    "many folders": lambda number: (f"{number % 2}/{number}/{number}/a.png",),
}


def opening(path, layout, count):
    """The seconds of this process that it takes to open a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("0/first.png", "1/first.png"):
            archive.writestr(name, IMAGE)
        for number in range(count):
            for name in layout(number):
                archive.writestr(name, IMAGE if name.endswith(".png") else b"words")
    began = time.process_time()
    source = open_source(path, "train", verify=False)
    assert len(source) >= 2
    return time.process_time() - began


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_time_grows_with_the_entries_and_not_with_their_square(tmp_path, layout):
    few, many = (opening(tmp_path / f"{count}.zip", layout, count) for count in (1000, 8000))
    assert many < 24 * max(few, 0.05), (few, many)


def test_classes_are_drawn_from_in_one_pass():
    seconds = []
    for classes in (2000, 32_000):
        labels = [label for label in range(classes) for _ in range(2)]
        names = [f"{label}/{number}" for number, label in enumerate(labels)]
        began = time.process_time()
        assert len(carve("many", "val", labels, 0.1, 0, names)) == classes
        seconds.append(time.process_time() - began)
    assert seconds[1] < 50 * max(seconds[0], 0.02), seconds


def test_pictures_are_named_in_one_pass(tmp_path):
    seconds = []
    for count in (1000, 32_000):
        began = time.process_time()
        names = unique_names([tmp_path / str(number) / "street.jpg" for number in range(count)])
        seconds.append(time.process_time() - began)
        assert len(set(names)) == count
        assert names[:2] == ["street", "street-2"]
    assert seconds[1] < 100 * max(seconds[0], 0.01), seconds


def test_what_no_one_means_is_refused_at_once(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat", "dog"):
            archive.writestr(f"{name}/a.png", IMAGE)
        archive.writestr("classes.tsv", b"\n" * 2**27)
    with pytest.raises(DMFormerError, match=r"unpack to 134,217,728 bytes, over the limit"):
        open_source(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/" * 30_000 + "a.png", IMAGE)
    with pytest.raises(DMFormerError, match="over 64 folders deep"):
        open_source(path)
