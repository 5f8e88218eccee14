"""Every name that users are told of works after `import dmformer_keras` alone."""

import ast
import json
import re
import types
from pathlib import Path

import pytest
from helpers import run_python

import dmformer_keras

PACKAGE = Path(dmformer_keras.__file__).parent
ROOT = PACKAGE.parent
PACKAGES = ("benchmark", "data", "explain", "export", "hub", "inference", "layers", "presets",
            "training")  # fmt: skip

pytestmark = pytest.mark.once_under_jax

DOTTED = re.compile(r"(?<![\w/.-])dmformer_keras(?:\.[A-Za-z_]\w*)+")
IMPORTED = re.compile(r"from (dmformer_keras[\w.]*) import (?:\(([\w,\s]+)\)|([\w, ]+))")


def names_in(text):
    found = set(DOTTED.findall(text))
    for module, several, one_line in IMPORTED.findall(text):
        found |= {f"{module}.{name}" for name in re.findall(r"\w+", several or one_line)}
    # `dmformer_keras.py`-like names of files are none of these.
    return {name for name in found if not name.endswith((".py", ".md"))}


def docstrings_and_messages(path):
    """Yields the docstrings of a module, and what its errors say."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""
        if isinstance(node, ast.Raise):
            yield " ".join(
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )


def pages():
    return [path for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")) if path.is_file()]


def test_every_name_in_the_docs_docstrings_and_errors_works():
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    for path in PACKAGE.rglob("*.py"):
        if "integrations" not in path.parts:  # these need the other library
            texts += docstrings_and_messages(path)
    names = set().union(*map(names_in, texts))
    assert {"dmformer_keras.export.to_tflite", "dmformer_keras.segment"} <= names
    output = run_python(
        "import functools, json, dmformer_keras\n"
        "missing = []\n"
        f"for name in json.loads({json.dumps(json.dumps(sorted(names)))}):\n"
        "    try:\n"
        "        functools.reduce(getattr, name.split('.')[1:], dmformer_keras)\n"
        "    except AttributeError:\n"
        "        missing.append(name)\n"
        "print(json.dumps(missing))\n"
    )
    assert json.loads(output) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_package_shows_is_what_it_promises(name):
    package = getattr(dmformer_keras, name)
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, public) for public in package.__all__)
    assert not any(public.startswith("_") for public in package.__all__)


def test_what_the_top_package_shows_is_what_it_promises():
    assert dir(dmformer_keras) == sorted([*dmformer_keras.__all__, "__version__"])
    assert all(hasattr(dmformer_keras, name) for name in dmformer_keras.__all__)
    assert not hasattr(dmformer_keras, "no_such_name")


def test_what_is_imported_when_used_is_shown_to_type_checkers():
    """`__all__` and what stands at the top, TYPE_CHECKING included, are the same names."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dmformer_keras"):
            found |= {alias.name for alias in node.names}
    needed = {"grouped_optimizers", "imported_when_used", "integrations"}  # by the face itself
    assert found - needed == set(dmformer_keras.__all__)


@pytest.mark.parametrize("name", ["", *PACKAGES])
def test_no_function_shares_its_name_with_a_module(name):
    """As a module it would hide the function once anything has imported it."""
    package = getattr(dmformer_keras, name) if name else dmformer_keras
    folder = PACKAGE / name
    for public in package.__all__:
        is_module = isinstance(getattr(package, public), types.ModuleType)
        has_file = (folder / f"{public}.py").is_file() or (folder / public).is_dir()
        assert is_module == has_file, public
