"""Prints the drawing of CONTRIBUTING.md, who imports whom: `python docs/figures/imports.py`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "dmformer_keras"


def part_of(module):
    """The part of the package that a module belongs to, or None for none of its own."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if package == PACKAGE.name else None


def imported_parts(path):
    """The parts of the package that a file imports, anywhere in it but for type checkers."""
    nodes, parts = [ast.parse(path.read_text(encoding="utf-8"))], set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            parts |= {part_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts |= {part_of(f"{node.module}.{alias.name}") for alias in node.names}
    return parts


def imports():
    """{part: parts that it imports}, of all that is in the package but its face."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            graph.setdefault(part, set()).update(imported_parts(path))
    return {part: (found & graph.keys()) - {part} for part, found in graph.items()}


def reachable(graph, part):
    """What a part imports, and what that imports, and so on."""
    found, waiting = set(), [part]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def arrows(graph):
    """The imports that do not follow from others: [(part, imported part)]."""
    return sorted(
        (part, imported)
        for part, found in graph.items()
        for imported in found
        if not any(imported in reachable(graph, other) for other in found - {imported})
    )


def drawing():
    """The Mermaid text."""
    return "\n".join(
        ["flowchart BT", *(f"    {part} --> {other}" for part, other in arrows(imports()))]
    )


if __name__ == "__main__":
    print(drawing())
