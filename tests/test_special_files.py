"""Pipes, endless devices and huge sparse files in the place of what is read: one sentence each."""

import os
import signal

import numpy as np
import pytest
from helpers import tiny_classifier

import dmformer_keras
from dmformer_keras import DMFormerClassifier, DMFormerError
from dmformer_keras.data import open_source
from dmformer_keras.training import TeacherAnswers, package
from dmformer_keras.training.checkpoint import read_state

pytestmark = [
    pytest.mark.once_under_torch,
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX system"),
]


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**35)


@pytest.fixture(params=[pipe, device, sparse], ids=lambda make: make.__name__)
def put(request):
    """Function (path): puts a special file there; what then waits for ever is ended."""

    def put_at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        request.param(path)
        return path

    put_at.kind = request.param.__name__
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("still reading"))
    signal.alarm(120)
    yield put_at
    signal.alarm(0)


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_presets(put, tmp_path, name):
    tiny_classifier(2).save_to_preset(tmp_path)
    put(tmp_path / name)
    with pytest.raises(DMFormerError) as caught:
        DMFormerClassifier.from_preset(tmp_path)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["a.keras", "a.onnx", "a.tflite"])
def test_models_in_one_file(put, tmp_path, name):
    if put.kind == "sparse":
        pytest.skip("is read in parts, by the format's own library")
    with pytest.raises(DMFormerError, match=name):
        dmformer_keras.load(put(tmp_path / name))


def test_runs(put, tmp_path):
    put(tmp_path / "checkpoint" / "state.json")
    with pytest.raises(DMFormerError, match=r"state.json cannot be read"):
        read_state(tmp_path)
    put(tmp_path / "report.json")
    with pytest.raises(DMFormerError, match=r"report.json cannot be read"):
        package(tmp_path, tmp_path / "out", "digits")


def test_answers_of_a_teacher(put, tmp_path):
    source = open_source((np.zeros((2, 8, 8, 3), "uint8"), [0, 1]), "all")
    np.save(tmp_path / "features.npy", np.zeros((2, 3), "float32"))
    put(tmp_path / "names.txt")
    with pytest.raises(DMFormerError, match=r"names.txt' cannot be read"):
        TeacherAnswers(tmp_path, source, 1.0)


def test_class_tables_and_archives(put, tmp_path):
    for name in ("cat", "dog"):
        for number in range(2):
            path = tmp_path / "data" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    put(tmp_path / "data" / "classes.tsv")
    with pytest.raises(DMFormerError, match=r"classes.tsv"):
        open_source(tmp_path / "data")
    with pytest.raises(DMFormerError, match="neither a folder nor a zip archive"):
        open_source(put(tmp_path / "data.zip"))
