"""`dmformer benchmark` as a user meets it."""

import json
import re

import pytest
from test_commands import failure

from dmformer_keras.cli import main

pytestmark = pytest.mark.backend_independent

QUICK = ["--peers", "none", "--rounds", "2", "--seconds", "0.01", "--threads", "1"]


def test_measures_prints_and_writes(tmp_path, capsys):
    for package in ("tensorflow", "torch"):
        pytest.importorskip(package)
    arguments = [
        "benchmark", "dmformer_n", "dmformer_n:plain@torch", "keras/ResNet50V2@tflite",
        "--runtimes", "tensorflow", "--batch-size", "2", "--image-size", "32", "--output",
        str(tmp_path / "results"), "--json", *QUICK,
    ]  # fmt: skip
    assert main(arguments) == 0
    captured = capsys.readouterr()
    found = {entry["name"]: entry for entry in json.loads(captured.out)["contestants"]}
    assert found["dmformer_n@tensorflow"]["summary"]["ratio"]["median"] == 1.0
    assert found["dmformer_n:plain@torch"]["parameters"] == 2_208_100
    assert found["keras/ResNet50V2@tflite"]["status"] == "left out"
    assert "round 2/2" in captured.err
    stored = json.loads((tmp_path / "results" / "results.json").read_text())
    assert stored["command"].startswith("dmformer benchmark dmformer_n ")
    assert (tmp_path / "results" / "results.md").is_file()


def test_one_name_is_measured_alone_and_the_peers_are_told_of(monkeypatch, capsys):
    groups = []

    def measured(group, settings, report):
        groups.append([contestant.name for contestant in group])
        return []

    monkeypatch.setattr("dmformer_keras.cli.benchmark.measure", measured)
    monkeypatch.setattr("dmformer_keras.cli.benchmark.participants.limits", lambda *args: [])
    arguments = ["benchmark", "dmformer_n", "--runtimes", "tensorflow"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "No contestant could be measured" in said
    assert re.search(r"--peers keras,keras-hub,timm would add \d+ .* take \d+ minute", said)
    assert main([*arguments, "--peers", "keras"]) == 1
    assert "would add" not in capsys.readouterr().err
    alone, beside = groups
    assert alone == ["dmformer_n@tensorflow"]
    assert beside == [*alone, "keras/ConvNeXtTiny@tensorflow", "keras/ResNet50V2@tensorflow"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["dmformer_x"], "dmformer_x"),
        (["dmformer_n:quick"], "quick"),
        (["dmformer_n", "--peers", "keras,caffe"], "caffe"),
        (["dmformer_n", "--peers", "none", "--baseline", "dmformer_s"], "not among"),
        (["dmformer_n", *QUICK[:2], "--threads", "100000"], "100000 threads"),
    ],
)
def test_what_is_wrong_is_said_before_work_starts(arguments, word, capsys):
    assert word in failure(capsys, "benchmark", *arguments)


@pytest.mark.parametrize("option", [["--batch-size", "0"], ["--seconds", "-1"], ["--rounds", "x"]])
def test_wrong_usage_ends_with_2(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["benchmark", "dmformer_n", *option])
    assert "positive" in capsys.readouterr().err
