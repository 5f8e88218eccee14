import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import randomize, tiny_classifier

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "converters.py"
pytestmark = [pytest.mark.slow, pytest.mark.backend_independent]


def test_two_converters_beside_each_other(tmp_path):
    pytest.importorskip("litert_torch", reason='needs "dmformer-keras[litert]"')
    if not SCRIPT.is_file():
        pytest.skip("not a source checkout")
    model = randomize(tiny_classifier(10, class_names=[str(digit) for digit in range(10)]))
    model.save(tmp_path / "tiny.keras")
    command = [sys.executable, SCRIPT, tmp_path / "tiny.keras", "--data", "digits"]
    command += ["--rounds", "3", "--output", tmp_path]
    subprocess.run([str(part) for part in command], check=True, timeout=900)
    files = json.loads((tmp_path / "tiny.keras.json").read_text())["files"]
    assert len(files) == 4
    assert files["float32 litert"]["top1"] == files["float32 tensorflow"]["top1"]
    assert "tiny.keras" in (tmp_path / "tiny.keras.md").read_text()
