"""The comparison of architectures: benchmarks/frontier.py."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"
pytestmark = [
    pytest.mark.backend_independent,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="not a source checkout"),
]


@pytest.fixture(scope="module")
def frontier(script):
    return script("frontier")


def figures(frontier, top1, milliseconds):
    return {
        "parameters": 2e6,
        "multiply_accumulates": 3e7,
        "minutes": 5.0,
        "backend": "tensorflow",
        "top1": {kind: top1 for kind in frontier.FILES},
        "milliseconds": {kind: milliseconds for kind in frontier.FILES},
    }


def test_what_another_beats_in_both_is_not_on_the_frontier(frontier):
    found = {
        "fast": figures(frontier, [0.5, 0.6], 1.0),
        "accurate": figures(frontier, [0.8], 4.0),
        "beaten": figures(frontier, [0.7], 5.0),
        "as accurate as fast, and slower": figures(frontier, [0.55], 2.0),
    }
    kind = next(iter(frontier.FILES))
    assert frontier.frontier(found, kind) == {"fast", "accurate"}
    rows = {row[0]: row for row in frontier.rows_of(found)}
    assert rows["fast"][3:5] == ["55.00 % in 1.0 ms *"] * 2
    assert rows["beaten"][3] == "70.00 % in 5.0 ms"
    assert rows["fast"][-2] == "2"


def test_runs_of_other_settings_are_refused(frontier, tmp_path, monkeypatch):
    arguments = ["frontier.py", "--data", "digits", "--runs", str(tmp_path)]
    folder = tmp_path / "DMFormerN-0"
    folder.mkdir()
    report = {"settings": {"data": "digits", "recipe": {}}}
    (folder / "report.json").write_text(json.dumps(report))
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="other settings"):
        frontier.main()


@pytest.mark.slow
def test_a_peer_and_a_dmformer_are_trained_and_measured(tmp_path):
    command = [
        sys.executable, FOLDER / "frontier.py", "--data", "digits", "--epochs", "1",
        "--image-size", "32", "--contestants", "DMFormerN", "MobileNetV3Large", "--jobs", "1",
        "--rounds", "2", "--runs", tmp_path / "runs", "--output", tmp_path / "out",
    ]  # fmt: skip
    subprocess.run([str(part) for part in command], check=True, timeout=900)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    for name in ("DMFormerN", "MobileNetV3Large"):
        report = json.loads((tmp_path / "runs" / f"{name}-0" / "report.json").read_text())
        float32 = found[name]["top1"]["TFLite, float32"]
        np.testing.assert_allclose(float32, report["top1"], atol=0.01)
    assert (tmp_path / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "| MobileNetV3Large |" in (tmp_path / "out" / "results.md").read_text()
