"""Commands whose disk is full before they are done: one sentence, and nothing half written."""

import errno
import json
from pathlib import Path

import keras
import pytest
from helpers import tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.cli import main

pytestmark = pytest.mark.once_under_torch

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full(monkeypatch):
    """Function (owner, name, part of a path): what writes to such a path fails from now on."""

    def fill(owner, name, part):
        write = getattr(owner, name)

        def failing(*args, **kwargs):
            if any(part in str(arg) for arg in args if isinstance(arg, (str, Path))):
                raise FULL
            return write(*args, **kwargs)

        monkeypatch.setattr(owner, name, failing)

    return fill


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_preset_stays_as_it_was(tmp_path, full):
    tiny_classifier(2).save_to_preset(tmp_path / "preset")
    before = contents(tmp_path)
    full(Path, "write_text", "metadata.json")
    with pytest.raises(DMFormerError, match=r"preset' cannot be written \(No space left"):
        tiny_classifier(3).save_to_preset(tmp_path / "preset")
    assert contents(tmp_path) == before


def test_a_training_says_how_to_go_on(train_arguments, tmp_path, full, capsys, monkeypatch):
    output = tmp_path / "run"
    arguments = [*train_arguments, "--output", str(output)]
    full(keras.Model, "save", "epoch_0002")
    assert main(arguments) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "epoch_0002.keras' cannot be written (No space left on device)" in message
    assert message.endswith("then continue the run with --resume.")
    assert "bug" not in message
    assert not list(output.rglob(".writing-*"))
    assert len(json.loads((output / "checkpoint/state.json").read_text())["history"]) == 1
    monkeypatch.undo()
    assert main([*arguments, "--resume"]) == 0
    assert (output / "report.json").is_file()


def test_a_package_is_whole_or_absent(trained, pictures, tmp_path, full, capsys):
    full(Path, "write_text", "README.md")
    output = tmp_path / "packaged"
    assert main(["package", str(trained), "--output", str(output), "--data", str(pictures)]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "packaged' cannot be written (No space left on device)" in message
    assert not list(tmp_path.iterdir())


def test_an_export_is_whole_or_absent(trained, tmp_path, full, capsys, unmeasured):
    onnx = pytest.importorskip("onnx")
    full(onnx, "save", "model.onnx")
    arguments = ["export", str(trained), "--output", str(tmp_path / "model.onnx")]
    assert main(arguments) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "model.onnx' cannot be written (No space left on device)" in message
    assert not list(tmp_path.iterdir())


def test_pictures_are_whole_or_absent(trained, pictures, tmp_path, capsys):
    output = tmp_path / "picture.png"
    output.mkdir()  # in use
    image = str(pictures / "dark/00.png")
    assert main(["explain", str(trained), image, "--output", str(output)]) == 1
    assert "picture.png' cannot be written (" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [output]
