"""The README's Python runs as it stands, one block after the other."""

import re
from pathlib import Path

import pytest
from helpers import run_python

README = Path(__file__).parent.parent / "README.md"

pytestmark = pytest.mark.backend_independent


def test_python_blocks_run(tmp_path):
    if not README.is_file():
        pytest.skip("not a source checkout")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    output = run_python("\n".join(blocks), timeout=600, folder=tmp_path)
    assert "{'channels': 192, 'stride': 32}" in output
    assert (tmp_path / "model.tflite").is_file()
