"""The README: its Python runs as it stands, it stays short, and what it links to is there."""

import re
from pathlib import Path

import pytest
from helpers import run_python
from PIL import Image

import dmformer_keras
from dmformer_keras import DMFormerBackbone
from dmformer_keras.complexity import count_multiply_accumulates

README = Path(__file__).parent.parent / "README.md"

pytestmark = pytest.mark.once_under_torch


@pytest.mark.backend_independent
def test_python_blocks_run(tmp_path):
    if not README.is_file():
        pytest.skip("not a source checkout")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    Image.effect_noise((120, 90), 60).convert("RGB").save(tmp_path / "photo.jpg")
    output = run_python("\n".join(blocks), timeout=600, folder=tmp_path)
    assert len(re.findall(r"^[\w ]+: \d+\.\d%$", output, re.MULTILINE)) == 3


def test_it_is_two_screens_and_what_it_links_to_is_there():
    if not README.is_file():
        pytest.skip("not a source checkout")
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 105
    links = re.findall(r"\]\((?!http)([^)]+)\)", text)
    assert len(links) > 20
    for path, _, heading in (link.partition("#") for link in links):
        page = README.parent / path
        assert page.exists(), path
        if heading:
            headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [name.lower().replace(" ", "-") for name in headings], heading


def test_the_table_of_segmenters_is_counted():
    page = README.parent / "docs" / "models.md"
    if not page.is_file():
        pytest.skip("not a source checkout")
    rows = re.findall(
        r"\| `(\w+)` on (\w) \| ([\d.]+) M \| ([\d.]+) \|", page.read_text(encoding="utf-8")
    )
    assert len(rows) == 5
    for number, (head, letter, parameters, multiply_accumulates) in enumerate(rows):
        backbone = DMFormerBackbone.from_preset(
            f"dmformer_{letter.lower()}", input_shape=(512, 512, 3)
        )
        model = getattr(dmformer_keras, head)(backbone, 150)
        assert f"{model.count_params() / 1e6:.2f}" == parameters
        if number < 2:  # the larger ones take long
            assert f"{count_multiply_accumulates(model) / 1e9:.1f}" == multiply_accumulates
