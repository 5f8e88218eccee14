import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "int8.py"
pytestmark = [pytest.mark.slow, pytest.mark.backend_independent]


def test_int8_beside_float32_in_turns(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")
    if not SCRIPT.is_file():
        pytest.skip("not a source checkout")
    options = ["--models", "dmformer_n", "--image-size", "64", "--rounds", "3", "--seconds", "0.1"]
    command = [sys.executable, SCRIPT, *options, "--output", tmp_path]
    subprocess.run([str(part) for part in command], check=True, timeout=600)
    (line,) = json.loads((tmp_path / "results.json").read_text())["models"]
    assert line["size_ratio"] < 0.4
    assert len(line["rounds"]["int8"]) == 3
    ratios = [a / b for a, b in zip(*(line["rounds"][k] for k in ("int8", "float32")), strict=True)]
    assert line["latency_ratio"] == pytest.approx(sorted(ratios)[1])
    assert "dmformer_n" in (tmp_path / "results.md").read_text()
