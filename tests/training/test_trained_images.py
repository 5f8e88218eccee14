import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from dmformer_keras.data import open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import package, train
from dmformer_keras.training.trained_images import (
    changed_images,
    draw_of_run,
    record_contents,
    trained_on_warning,
)

pytestmark = pytest.mark.once_under_torch


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes without splits."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, color in (("ripe", (220, 60, 40)), ("green", (60, 180, 60))):
        (folder / name).mkdir()
        for number in range(20):
            image = random.normal(color, 20, (32, 32, 3)).clip(0, 255).astype("uint8")
            Image.fromarray(image).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, recipe, tiny_preset, tmp_path_factory):
    """The folder of a run of one epoch on them."""
    folder = tmp_path_factory.mktemp("runs") / "photos"
    short = dataclasses.replace(recipe, epochs=1, accumulate=1, mixup=0, cutmix=0)
    train(short, tiny_preset, photos, folder, verbose=0)
    return folder


def test_a_run_knows_its_images(run, photos):
    assert draw_of_run(run) == "name"
    val = open_source(photos, "val")
    assert trained_on_warning(run, val) == ""
    assert trained_on_warning(run, open_source(photos, "train")) == ""  # asked for
    other = open_source(photos, "val", draw="position")
    shared = {val.name(index) for index in range(len(val))}
    count = sum(other.name(index) not in shared for index in range(len(other)))
    assert count
    assert trained_on_warning(run, other).startswith(f"{count} of these {len(other)} images")


def test_files_that_are_removed_leak_nothing(run, photos, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    for number in (3, 4, 11):
        (fewer / "ripe" / f"{number}.png").unlink()
    assert trained_on_warning(run, open_source(fewer, "val")) == ""


def test_files_that_are_renamed_are_known_by_their_content(run, photos, tmp_path):
    moved = tmp_path / "moved" / "test"
    shutil.copytree(photos, moved)
    for path in moved.rglob("*.png"):
        path.rename(path.with_name(f"new_{path.name}"))
    trained = len(open_source(photos, "train"))
    warning = trained_on_warning(run, open_source(moved.parent, "test"))
    assert warning.startswith(f"{trained} of these 40 images were trained on")


def test_a_packaged_preset_draws_as_its_run_did(tmp_path):
    (tmp_path / "metadata.json").write_text('{"draw": "position"}')
    assert draw_of_run(tmp_path) == "position"
    (tmp_path / "metadata.json").write_text("[]")
    assert draw_of_run(tmp_path) == "name"


def test_a_run_of_the_early_draw_keeps_it(run, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    path = old / "checkpoint" / "state.json"
    state = json.loads(path.read_text())
    assert state["identity"]["data"].pop("draw") == "name"
    path.write_text(json.dumps(state))
    (old / "checkpoint" / "training_images.npy").unlink()
    assert draw_of_run(old) == "position"
    assert trained_on_warning(old, open_source("digits", "val")) == ""
    assert draw_of_run(tmp_path / "no run") == "name"


def test_a_card_states_no_figures_of_images_that_were_trained_on(run, photos, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved / "val")
    for name in ("ripe", "green"):
        shutil.copytree(photos / name, moved / name)
    val = open_source(photos, "val")
    names = [val.name(index) for index in range(len(val))]
    shutil.rmtree(moved / "val")
    for name in names:
        (moved / name).unlink()  # what was held out is gone: others take its place
    message = r"not trained on: \d+ of these \d+ images were trained on"
    with pytest.raises(DMFormerError, match=message):
        package(run, tmp_path / "given", moved)
    assert not (tmp_path / "given").exists()


def test_images_that_changed_under_their_names_are_noticed(photos, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(photos, copied)
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    sources = [open_source(copied, split) for split in ("train", "val")]
    record_contents(tmp_path / "run", sources)
    assert changed_images(tmp_path / "run", sources) == []
    names = [sources[0].name(3), sources[1].name(0)]
    touched = copied / sources[0].name(5)
    os.utime(touched, (1, 1))  # another time, the same pixels
    for name in names:
        pixels = np.asarray(Image.open(copied / name))
        Image.fromarray(255 - pixels).save(copied / name)
    again = [open_source(copied, split) for split in ("train", "val")]
    assert changed_images(tmp_path / "run", again) == names
    assert changed_images(tmp_path / "no run", again) == []


def test_a_run_is_not_resumed_on_other_pixels(run, photos, recipe, tiny_preset, tmp_path):
    changed, folder = tmp_path / "changed", tmp_path / "run"
    shutil.copytree(photos, changed)
    shutil.copytree(run, folder)
    name = open_source(photos, "train").name(0)
    Image.new("RGB", (32, 32)).save(changed / name)
    short = dataclasses.replace(recipe, epochs=1, accumulate=1, mixup=0, cutmix=0)
    with pytest.raises(DMFormerError, match=rf"1 changed image\(s\), such as '{name}'"):
        train(short, tiny_preset, changed, folder, resume=True, verbose=0)


def test_arrays_that_changed_are_noticed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    images = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8)
    labels = [0, 1] * 3
    record_contents(tmp_path, [open_source((images, labels), "all")])
    assert changed_images(tmp_path, [open_source((images, labels), "all")]) == []
    images[4, 0, 0] ^= 1
    assert changed_images(tmp_path, [open_source((images, labels), "all")]) == ["arrays[4]"]
