"""The quickstart: shortened on a tiny model, and whole."""

import json

import keras
import pytest
from helpers import TINIEST

from dmformer_keras.cli import main, quickstart

PICTURES = ("curves.png", "confusion_matrix.png", "test_confusion_matrix.png")


def check_what_was_left(folder, capsys):
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    assert (folder / "model.tflite").stat().st_size > 1000
    capsys.readouterr()
    arguments = ["predict", str(folder), str(folder / "samples"), "--top", "1", "--json"]
    assert main(arguments) == 0
    assert len(json.loads(capsys.readouterr().out)) == 10
    assert main(["evaluate", str(folder), "--data", "digits", "--split", "test", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.once_under_torch
def test_each_step_is_made_and_a_missed_accuracy_fails(
    tiny_preset, tmp_path, capsys, monkeypatch, measured_here
):
    monkeypatch.setattr(quickstart, "PRESET", str(tiny_preset))
    folder = tmp_path / "quickstart"
    assert main(["quickstart", "--output", str(folder), "--epochs", "1"]) == 1
    captured = capsys.readouterr()
    for step in ("1/4", "2/4", "3/4", "4/4", f"dmformer predict {folder}"):
        assert step in captured.out
    config = json.loads((folder / "config.json").read_text())["config"]
    assert tuple(config["channels"]) == TINIEST["channels"]
    result = check_what_was_left(folder, capsys)
    assert f"The test accuracy is {100 * result['top1']:.2f} %" in captured.err


@pytest.mark.once_under_torch
def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch):
    needed = ("tensorflow", "a_package_nobody_has")
    monkeypatch.setattr("dmformer_keras.cli.arguments.quickstart._NEEDED", needed)
    assert main(["quickstart", "--output", str(tmp_path / "quickstart")]) == 1
    message = capsys.readouterr().err
    assert "a_package_nobody_has" in message
    assert 'pip install "dmformer-keras[quickstart]"' in message


@pytest.mark.slow
@pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="minutes under TensorFlow, longer elsewhere"
)
def test_the_whole_quickstart_reaches_its_accuracy(tmp_path, capsys):
    folder = tmp_path / "quickstart"
    assert main(["quickstart", "--output", str(folder)]) == 0, capsys.readouterr().err
    assert check_what_was_left(folder, capsys)["top1"] >= 0.97
