"""Every error is one sentence: what was wrong, what was expected, what to do."""

import ast
import re
from pathlib import Path

import pytest

import dmformer_keras

PACKAGE = Path(dmformer_keras.__file__).parent
# "NAME must be WHAT IS EXPECTED, not VALUE" says what to do, too.
STATES_BOTH = re.compile(r"(must|takes?|is|are|be|of|holds?|written|shown|given)\b.*, not ", re.S)
TO_DO = re.compile(r"[;:,] |run `|pip install|use |pass ", re.S)

pytestmark = pytest.mark.backend_independent


def text_of(node):
    """What a message says, with … for what is filled in; `None` where it is made elsewhere."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text_of(node.left) or "…") + (text_of(node.right) or "…")
    if isinstance(node, ast.IfExp):
        return text_of(node.orelse)
    return None


def messages():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "DMFormerError":
                text = text_of(node.args[0])
                if text is not None:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


def test_every_error_is_a_sentence():
    found = dict(messages())
    assert len(found) > 300
    endings = (".", "…", "?")
    wrong = [f"{place}: {text}" for place, text in found.items() if not text.endswith(endings)]
    assert wrong == []
    # A second sentence is one too many; `...` and names of files are none.
    several = re.compile(r"[a-z…)]\. [A-Z]")
    wrong = [f"{place}: {text}" for place, text in found.items() if several.search(text)]
    assert wrong == []


def test_every_error_says_what_to_do():
    wrong = [
        f"{place}: {text}"
        for place, text in messages()
        if not TO_DO.search(text) and not STATES_BOTH.search(text)
    ]
    assert wrong == []


def test_values_are_refused_in_one_way():
    assert [f"{place}: {text}" for place, text in messages() if ", got " in text] == []
