"""Images decoded once give the batches of the images themselves."""

import json
import os
import threading
import time

import numpy as np
import pytest
from image_files import encode, random_image

from dmformer_keras.data import Augmentation, cache, cached, open_source, to_py_dataset
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.files import FolderLock

pytestmark = pytest.mark.backend_independent

SIZE = (24, 24)


@pytest.fixture
def source(tmp_path):
    for number in range(6):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = random_image(number, 20 + 12 * number, 40)
        (folder / f"{number}.png").write_bytes(encode(image))
    return open_source(tmp_path / "images", "all")


@pytest.fixture(params=["memory", "folder"])
def where(request, tmp_path):
    return "memory" if request.param == "memory" else tmp_path / "cache"


def test_images_are_kept_no_larger_than_needed_and_never_enlarged(where):
    images = [random_image(0, 60, 200), random_image(1, 20, 30)]
    kept = cached(open_source((images, [0, 1]), "all"), SIZE, where)
    assert kept.read(0)[0].shape == (36, 120, 3)  # 1.5 times 24, its shape kept
    np.testing.assert_array_equal(kept.read(1)[0], images[1])
    assert [kept.read(index)[1] for index in range(2)] == [0, 1]
    assert len(kept) == 2


def test_batches_are_those_of_the_same_images(source, where):
    kept = cached(source, (100, 100), where)
    options = {"training": True, "augmentation": Augmentation.named("standard"), "seed": 3}
    expected = to_py_dataset(source, SIZE, 3, **options)
    found = to_py_dataset(kept, SIZE, 3, **options)
    for step in range(5):
        for one, other in zip(found[step], expected[step], strict=True):
            np.testing.assert_array_equal(one, other)


def test_masks_are_kept_with_their_images(where):
    images = [random_image(number, 20 + number, 30) for number in range(3)]
    masks = [np.arange(image[..., 0].size).reshape(image.shape[:2]) % 3 for image in images]
    source = open_source((images, masks), "all", task="segment")
    kept = cached(source, (8, 8), where)
    for index in range(3):
        for one, other in zip(kept.read(index), source.read(index), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(kept.pixel_counts, source.pixel_counts)


def test_masks_are_decoded_again_where_their_colors_mean_other_classes(tmp_path):
    root = tmp_path / "streets"
    mask = np.zeros((16, 20, 3), np.uint8)
    mask[:4] = 255
    for number in range(2):
        for folder, content in (("images", random_image(number, 16, 20)), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{number}.png").write_bytes(encode(content))

    def kept(first, second):
        table = f"0\troad\t{first}\t{first}\t{first}\n1\tsky\t{second}\t{second}\t{second}\n"
        (root / "classes.tsv").write_text(table)
        return cached(open_source(root, "all", task="segment"), (8, 8), tmp_path / "cache")

    assert kept(0, 255).read(0)[1].mean() == 0.25
    assert kept(0, 255).read(0)[1].mean() == 0.25
    with pytest.raises(DMFormerError, match="holds something else than the images"):
        kept(255, 0)


def test_files_are_decoded_once_for_all_runs(source, tmp_path, monkeypatch):
    decoded, read = [], source.read
    monkeypatch.setattr(source, "read", lambda index: decoded.append(index) or read(index))
    cached(source, SIZE, tmp_path / "cache")
    assert set(decoded) == set(range(len(source)))
    decoded.clear()
    assert cached(source, SIZE, tmp_path / "cache").read(1)[1] == source.labels[1]
    assert cached(source, (16, 16), tmp_path / "cache").read(0)[0].shape[:2] == (20, 40)
    assert decoded == []


def test_a_process_waits_for_another_that_decodes_the_same_images(source, tmp_path):
    folder, said, waits = tmp_path / "cache", [], threading.Event()

    def say(text):
        said.append(text.split()[0])
        waits.set()

    folder.mkdir()
    with FolderLock(folder) as other:
        other.take()
        thread = threading.Thread(target=cached, args=(source, SIZE, folder), kwargs={"say": say})
        thread.start()
        assert waits.wait(timeout=60)
        cache._write(source, SIZE, folder, cache._content(source, SIZE))
    thread.join(timeout=60)
    assert said == ["Waiting", "Using"]


def test_other_or_larger_images_are_not_taken_for_these(source, tmp_path):
    cached(source, SIZE, tmp_path / "cache")
    with pytest.raises(DMFormerError, match="holds something else"):
        cached(source, (25, 25), tmp_path / "cache")
    path = tmp_path / "images" / source.name(2)
    path.write_bytes(encode(random_image(9, 44, 40)))  # the same name and shape, other pixels
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**9))
    with pytest.raises(DMFormerError, match="holds something else"):
        cached(open_source(tmp_path / "images", "all"), SIZE, tmp_path / "cache")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(DMFormerError, match="holds something else"):
        cached(source, SIZE, tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]


def test_an_unfinished_or_damaged_cache_is_not_used(source, tmp_path, monkeypatch):
    folder = tmp_path / "cache"

    def interrupted(*_):
        yield source.read(0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_decoded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cached(source, SIZE, folder)
    (folder / ".writing-pixels.bin").write_bytes(b"a killed process leaves it")
    cached(source, SIZE, folder)
    pixels = folder / "pixels.bin"
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(DMFormerError, match="damaged"):
        cached(source, SIZE, folder)
    content = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps(content | {"version": 0}))
    with pytest.raises(DMFormerError, match="holds something else"):
        cached(source, SIZE, folder)


def test_what_would_not_fit_is_refused_before_it_is_taken(source, tmp_path, monkeypatch):
    said = []
    cached(source, SIZE, "memory", say=said.append)
    assert said == ["Decoding 6 images to memory, about 0.0 GiB"]
    monkeypatch.setattr(cache, "_memory", lambda: 20_000)
    with pytest.raises(DMFormerError, match="at most half"):
        cached(source, SIZE, "memory")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 9000}))
    with pytest.raises(DMFormerError, match="another disk"):
        cached(source, SIZE, tmp_path / "cache")


@pytest.mark.parametrize("left", [["pixels.bin"], ["pixels.bin", "table.npy"], [".writing-x"]])
def test_what_a_process_left_that_was_killed_is_written_again(source, tmp_path, left):
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in left:
        (folder / name).write_bytes(b"half")
    kept = cached(source, SIZE, folder)
    np.testing.assert_array_equal(kept.read(0)[0], cached(source, SIZE, "memory").read(0)[0])
    (folder / "cache.json").write_text("{}")
    with pytest.raises(DMFormerError, match="holds something else"):
        cached(source, SIZE, folder)


@pytest.mark.parametrize("name", ["cache.json", "table.npy", "pixels.bin"])
def test_a_cache_is_of_regular_files(source, tmp_path, name):
    folder = tmp_path / "cache"
    cached(source, SIZE, folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DMFormerError, match=r"holds something else|is damaged"):
        cached(source, SIZE, folder)
