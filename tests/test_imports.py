"""Who may import whom: the table in CONTRIBUTING.md, from the top down, and no circle."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

import dmformer_keras

PACKAGE = Path(dmformer_keras.__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"
# Two names of what stands elsewhere, kept for those who use them.
OTHER_NAMES = {"drawing": "inference", "hub": "presets"}

pytestmark = pytest.mark.backend_independent


def module_names():
    return {
        ".".join(("dmformer_keras", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in PACKAGE.rglob("*.py")
    }


def imports_of(path, modules):
    """The package's modules that a file imports, anywhere in it but for type checkers."""
    found = set()
    nodes = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules.keys()
            if node.module in modules and names - modules.keys():
                found.add(node.module)
    return found


def room(module):
    """The row of the table that a module belongs to."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return OTHER_NAMES.get(name, name)


@pytest.fixture(scope="module")
def graph():
    modules = module_names()
    graph = {name: imports_of(path, modules) for name, path in modules.items()}
    assert "dmformer_keras.errors" in graph["dmformer_keras.checks"]
    return graph


def test_no_module_takes_part_in_a_circle(graph):
    # Its parts ask the top package for its version, and for no more.
    without_top = {
        name: imported - {"dmformer_keras", name}
        for name, imported in graph.items()
        if name != "dmformer_keras"
    }
    graphlib.TopologicalSorter(without_top).prepare()  # raises CycleError with the circle


def test_imports_go_up_the_table_of_contributing(graph):
    if not CONTRIBUTING.is_file():
        pytest.skip("not a source checkout")
    rows = re.findall(r"^\| ((?:`[\w./]+`(?:, )?)+) \|", CONTRIBUTING.read_text("utf-8"), re.M)
    places = {}
    for place, row in enumerate(rows):
        for name in re.findall(r"`(?:dmformer_keras/)?([\w.]+?)(?:\.py|/)?`", row):
            places[name] = place
    rooms = {room(name) for name in graph}
    assert rooms - places.keys() == set(), "rooms that the table does not have"
    wrong = sorted(
        f"{name} imports {imported}"
        for name, all_imported in graph.items()
        for imported in all_imported
        if name != "dmformer_keras" != imported and places[room(imported)] > places[room(name)]
    )
    assert wrong == []


def test_nothing_imports_the_command_or_the_integrations(graph):
    wrong = sorted(
        f"{name} imports {imported}"
        for name, all_imported in graph.items()
        for imported in all_imported
        if room(imported) in ("cli", "integrations") and room(imported) != room(name)
    )
    # The face puts up the hooks.
    assert wrong == ["dmformer_keras imports dmformer_keras.integrations"]


def test_the_drawing_of_contributing_is_true(graph):
    if not CONTRIBUTING.is_file():
        pytest.skip("not a source checkout")
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", CONTRIBUTING.read_text("utf-8"), re.M))
    parts = {name: name.split(".")[1] for name in graph if "." in name}
    imported = {
        (parts[name], parts[other])
        for name, others in graph.items()
        for other in others
        if name in parts and other in parts and parts[name] != parts[other]
    }
    redraw = "draw it anew: python docs/figures/imports.py"
    assert drawn - imported == set(), redraw
    assert imported - followed(drawn) == set(), redraw


def followed(arrows):
    """The arrows, and those from the first to the last part of each way along them."""
    ways = set(arrows)
    while longer := {(a, d) for a, b in ways for c, d in arrows if b == c} - ways:
        ways |= longer
    return ways
