"""One training by the command, and what follows it, on each backend."""

import json

import pytest

from dmformer_keras.cli import main


def printed(capsys, *arguments):
    """Runs a command that must succeed, and returns what it prints as JSON."""
    assert main([str(argument) for argument in (*arguments, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_is_trained_measured_asked_and_exported(
    train_arguments, pictures, tmp_path, capsys, unmeasured
):
    pytest.importorskip("onnxruntime", reason="running ONNX files needs onnxruntime")
    run, file = tmp_path / "run", tmp_path / "model.onnx"
    assert main([*train_arguments, "--epochs", "1", "--output", str(run)]) == 0
    assert main(["export", str(run), "--output", str(file), "--data", str(pictures)]) == 0
    capsys.readouterr()

    trained = json.loads((run / "report.json").read_text())["validation"]
    for model in (run, file):
        measured = printed(capsys, "evaluate", model, "--data", pictures)
        assert measured["examples"] == trained["examples"] == 6
        assert measured["loss"] == pytest.approx(trained["loss"], rel=1e-4)
        (answer,) = printed(capsys, "predict", model, pictures / "dark" / "00.png")
        assert {entry["class"] for entry in answer["predictions"]} == {"dark", "bright"}
