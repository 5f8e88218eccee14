"""A save that dies at any moment leaves the old preset, the new one, or one that is refused."""

import functools
import os
import shutil

import numpy as np
import pytest
from helpers import TINIEST, array, randomize, run_python, tiny_classifier

from dmformer_keras import DMFormerBackbone, DMFormerClassifier, DMFormerError, presets
from dmformer_keras.system.files import FolderLock

pytestmark = pytest.mark.once_under_torch


class Died(BaseException):
    """What no cleaning up survives."""


@functools.cache
def backbone(activation, seed):
    return randomize(
        DMFormerBackbone(**TINIEST, input_shape=(32, 32, 3), activation=activation), seed
    )


@functools.cache
def classifier(activation, seed, names):
    return randomize(DMFormerClassifier(backbone(activation, seed), 2, class_names=names), seed)


def what_is_in(folder):
    """What a preset's reader finds, all checks included: activation, names, and the weights."""
    preset = presets.read_preset(folder)
    files = [name for name in preset.metadata["files"] if name.endswith(".h5")]
    for name in files:
        presets.verify_checksum(folder / name, preset)
    names = preset.task and preset.task["config"]["class_names"]
    return preset.config["activation"], names, [(folder / name).read_bytes() for name in files]


def die_at(monkeypatch, folder, step, seen):
    """Lets a process end before its `step`-th change of a folder's files, as far as files show.

    Adds the names of the functions that change them to `seen`.
    """
    left = [step]

    def counted(name, place):
        whole = getattr(os, name)

        def call(*args, **kwargs):
            if left[0] < 0 or os.path.dirname(args[place]) == str(folder):
                left[0] -= 1
                seen.add(name)
                if left[0] < 0:
                    raise Died
            return whole(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    counted("replace", 1)
    counted("unlink", 0)
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)


OLD = {
    "nothing": None,
    "backbone": lambda: backbone("gelu", 1),
    "classifier": lambda: classifier("gelu", 1, ("cat", "dog")),
}
NEW = {
    "backbone": lambda: backbone("relu", 2),
    "classifier": lambda: classifier("relu", 2, ("dog", "cat")),
}


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("old", OLD)
def test_all_moments_of_death(tmp_path, old, new):
    model, before, found, seen = NEW[new](), tmp_path / "before", [], set()
    if OLD[old]:
        OLD[old]().save_to_preset(before)
    model.save_to_preset(tmp_path / "whole")
    wanted = [what_is_in(before)] if OLD[old] else []
    wanted.append(what_is_in(tmp_path / "whole"))
    for step in range(20):
        folder = tmp_path / str(step)
        shutil.copytree(before, folder) if OLD[old] else folder.mkdir()
        with pytest.MonkeyPatch.context() as monkeypatch:
            die_at(monkeypatch, folder, step, seen)
            try:
                model.save_to_preset(folder)
                finished = True
            except Died:
                finished = False
                assert list(folder.glob(".saving-*"))  # as a death leaves it
        try:
            found.append(what_is_in(folder))
        except DMFormerError:
            found.append(None)
        assert found[-1] in [*wanted, None]
        if finished:
            break
    assert found[0] == (wanted[0] if OLD[old] else None)
    assert found[-1] == wanted[-1]
    assert step >= 4
    assert "replace" in seen
    if (old, new) == ("classifier", "backbone"):
        assert "unlink" in seen  # the head goes


def test_files_of_two_saves_are_refused(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    classifier("gelu", 1, ("cat", "dog")).save_to_preset(first)
    classifier("relu", 2, ("dog", "cat")).save_to_preset(second)
    for name in ("config.json", "task.json", "model.weights.h5", "task.weights.h5"):
        mixed = tmp_path / f"mixed {name}"
        shutil.copytree(first, mixed)
        shutil.copy(second / name, mixed)
        with pytest.raises(DMFormerError, match=f"{name} is altered or incomplete"):
            DMFormerClassifier.from_preset(mixed)
    (first / "task.json").unlink()
    with pytest.raises(DMFormerError, match=r"task\.json is missing"):
        DMFormerBackbone.from_preset(first)
    backbone("gelu", 1).save_to_preset(first)
    shutil.copy(second / "task.json", first)
    with pytest.raises(DMFormerError, match=r"task\.json belongs to another preset"):
        DMFormerBackbone.from_preset(first)


KILLED = """
import os, signal, sys
from dmformer_keras import DMFormerBackbone
from dmformer_keras.presets import saving

saving.sha256 = lambda path: os.kill(os.getpid(), signal.SIGKILL)
try:
    pid = os.fork()
except AttributeError:
    sys.exit()
if pid:
    os.waitpid(pid, 0)
    sys.exit()
DMFormerBackbone((8, 8, 8, 8), (1, 1, 1, 1), input_shape=(32, 32, 3)).save_to_preset(sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_litter_of_killed_saves_is_removed_and_that_of_running_ones_kept(tmp_path):
    code = KILLED.replace("sys.argv[1]", repr(str(tmp_path / "preset")))
    run_python(code)
    (litter,) = (tmp_path / "preset").iterdir()
    assert litter.name.startswith(".saving-")
    running = tmp_path / "preset" / ".saving-running"
    running.mkdir()
    with FolderLock(running) as lock:
        lock.take()
        backbone("gelu", 1).save_to_preset(tmp_path / "preset")
    assert [path.name for path in (tmp_path / "preset").glob(".*")] == [running.name]
    assert what_is_in(tmp_path / "preset")[0] == "gelu"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_no_one_could_load_are_not_written(tmp_path, value):
    model = tiny_classifier()
    model.save_to_preset(tmp_path / "good")
    before = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    weight = model.backbone.weights[0]
    spoiled = array(weight).copy()
    spoiled.flat[0] = value
    weight.assign(spoiled)
    with pytest.raises(DMFormerError, match="no finite numbers"):
        model.save_to_preset(tmp_path / "good")
    assert {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()} == before
    with pytest.raises(DMFormerError, match="no finite numbers"):
        model.backbone.save_to_preset(tmp_path / "new")
    assert not (tmp_path / "new").exists()
