"""Writes docs/commands/, a page for each command, from what its `--help` says.

    python docs/commands.py [FOLDER]

`tests/test_docs.py` fails where a page is not what this writes.
"""

import argparse
import contextlib
import itertools
import sys
from pathlib import Path
from unittest import mock

from dmformer_keras.cli import COMMANDS, main

FOLDER = Path(__file__).parent / "commands"
# {command: pages that tell more}
MORE = {
    "quickstart": ["tutorial"],
    "presets": ["models"],
    "summary": ["models"],
    "train": ["own_images", "training", "segmentation", "teacher", "distributed"],
    "evaluate": ["own_images", "segmentation"],
    "predict": ["own_images", "segmentation"],
    "explain": ["explain"],
    "demo": ["explain"],
    "export": ["export", "mobile", "browser"],
    "package": ["training"],
    "upload": ["training"],
    "benchmark": ["benchmarks", "which_model"],
}


# Where argparse's titles and the command's are not what a heading should be.
HEADINGS = {
    "positional arguments": "Arguments",
    "tflite": "TFLite",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
}


def parser_of(*command):
    """The argparse parser that answers `dmformer COMMAND --help`."""
    asked = []
    with (
        mock.patch.object(
            argparse.ArgumentParser, "print_help", lambda self, file=None: asked.append(self)
        ),
        contextlib.suppress(SystemExit),
    ):
        main([*command, "--help"])
    (parser,) = asked
    return parser


def page(command):
    """The Markdown page of a command."""
    parser = parser_of(command)
    formatter = parser._get_formatter()
    lines = [f"# dmformer {command}", "", *_prose(parser.description)]
    lines += _fenced([f"dmformer {command} {_usage(parser, formatter)}"])
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            told = [_told(action, formatter) for action in actions]
            heading = HEADINGS.get(group.title, group.title[:1].upper() + group.title[1:])
            lines += [f"## {heading}", "", *told, ""]
    lines += ["## Examples", "", *_prose(parser.epilog)]
    more = ", ".join(f"[{name.replace('_', ' ')}](../{name}.md)" for name in MORE[command])
    return "\n".join([*lines, f"More in {more}; [all commands](index.md)."]) + "\n"


def index():
    """The Markdown page that lists the commands."""
    rows = [f"| [`dmformer {name}`]({name}.md) | {told} |" for name, told in COMMANDS.items()]
    lines = ["# Commands", "", "`dmformer COMMAND --help` prints what these pages say.", ""]
    lines += ["| command | what it does |", "|---|---|", *rows, ""]
    return "\n".join([*lines, *_prose(parser_of().epilog)])


def pages():
    """{file name: text} of all pages."""
    return {"index.md": index(), **{f"{name}.md": page(name) for name in COMMANDS}}


def _usage(parser, formatter):
    """What has to be given, in one line."""
    needed = [action for action in parser._actions if action.required and action.option_strings]
    placed = [action for action in parser._actions if not action.option_strings]
    told = [formatter._format_action_invocation(action) for action in needed]
    told += [formatter._format_args(action, action.metavar or action.dest) for action in placed]
    return " ".join(["[options]", *told])


def _told(action, formatter):
    invocation = formatter._format_action_invocation(action)
    explanation = formatter._expand_help(action) if action.help else ""
    return f"- `{invocation}`" + (f": {explanation}" if explanation else "")


def _prose(text):
    """The lines of a description or epilog, with fences around what is indented."""
    lines = []
    for indented, block in itertools.groupby(
        text.strip("\n").splitlines(), lambda line: line.startswith("  ")
    ):
        block = list(block)
        lines += _fenced([line[2:] for line in block]) if indented else [*block, ""]
    # One blank line is enough; which heading the examples stand under is known.
    lines = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return lines[2:] if lines[0] in ("example:", "examples:") else lines


def _fenced(lines):
    language = "sh" if lines[0].startswith("dmformer") else "text"
    return [f"```{language}", *lines, "```", ""]


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
