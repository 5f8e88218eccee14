"""The pages of docs/: their Python runs, and the site builds without a broken link."""

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import run_python

ROOT = Path(__file__).parent.parent
# {page: the backend it is run under}; PyTorch, which compiles nothing, is quickest. Those of one
# backend share a process, for to import the libraries takes longer than most of them.
PAGES = {
    "tutorial": "torch",
    "architecture": "jax",
    "fine_tuning": "torch",
    "own_images": "torch",
    "segmentation": "torch",
    "keras_hub": "torch",
    "my_classes_keras_hub": "torch",
    "my_classes_keras_cv": "torch",
    "models": "torch",
    "teacher": "torch",
    "training": "torch",
    "export": "tensorflow",
}

pytestmark = [
    pytest.mark.once_under_jax,
    pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="not a source checkout"),
]


RUN_PAGES = """
import contextlib, json, os, sys, traceback

pages = json.load(open("pages.json", encoding="utf-8"))
failures = {}
for name, code in pages.items():
    os.mkdir(name)
    with contextlib.chdir(name), contextlib.redirect_stdout(sys.stderr):
        try:
            exec(compile(code, f"{name}.md", "exec"), {"__name__": "__main__"})
        except BaseException:
            failures[name] = traceback.format_exc()
print(json.dumps(failures))
"""


def python_of(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    return "\n".join(blocks)


@pytest.mark.parametrize("backend", sorted(set(PAGES.values())))
def test_the_python_of_the_pages_runs(backend, tmp_path):
    pytest.importorskip(backend)
    pages = {page: python_of(page) for page, under in PAGES.items() if under == backend}
    (tmp_path / "pages.json").write_text(json.dumps(pages), encoding="utf-8")
    failures = json.loads(run_python(RUN_PAGES, backend, 1200, tmp_path).splitlines()[-1])
    assert not failures, "\n".join(f"{page}.md: {trace}" for page, trace in failures.items())


def test_every_page_with_python_is_run():
    pages = {
        path.stem for path in (ROOT / "docs").glob("*.md") if "```python" in path.read_text("utf-8")
    }
    # What is for a browser, several hosts or a phone is tried where those are.
    assert pages - {"browser", "distributed", "mobile"} == set(PAGES)


def test_the_pages_of_the_commands_are_what_their_help_says(tmp_path):
    # In a process of its own: heads that other tests add are options of the command, too.
    script = [sys.executable, ROOT / "docs" / "commands.py", tmp_path]
    subprocess.run(script, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    pages = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    again = "write them anew: python docs/commands.py"
    written = ROOT / "docs" / "commands"
    assert {file.name for file in written.iterdir()} == pages.keys(), again
    for name, text in pages.items():
        assert (written / name).read_text(encoding="utf-8") == text, again
    listed = set(
        re.findall(r": commands/(\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    )
    assert listed == pages.keys()
    assert "- `--data SOURCE`: a folder" in pages["train.md"]
    assert "[options] --data SOURCE --output DIR\n" in pages["train.md"]
    assert "dmformer predict runs/photos cat.jpg --json" in pages["predict.md"]


def test_the_licence_of_every_dependency_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *itertools.chain(*extras),
              *project["build-system"]["requires"]]  # fmt: skip
    names = {re.match(r"[\w-]+", line)[0] for line in wanted} - {"dmformer-keras"}
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| ([\w-]+) \| (?!when)", page, re.MULTILINE))
    assert listed == names


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings") is None,
    reason='the site is built with MkDocs: pip install "dmformer-keras[docs]"',
)
def test_the_site_builds_strictly(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-3000:]
    reference = (tmp_path / "api" / "training" / "index.html").read_text(encoding="utf-8")
    assert "layer_decay" in reference
    assert (tmp_path / "figures" / "attention.svg").is_file()
    benchmarks = (tmp_path / "benchmarks" / "index.html").read_text(encoding="utf-8")
    assert "<td>timm/resnet50@torch</td>" in benchmarks  # the files of results are put in
