"""Help and refusals come before Keras is imported, which takes seconds."""

import json
import subprocess
import sys

import pytest
from helpers import run_python

from dmformer_keras.cli import COMMANDS, _checked_arguments
from dmformer_keras.cli.arguments import evaluate as evaluate_arguments
from dmformer_keras.cli.arguments import export as export_arguments
from dmformer_keras.task_table import OWN_HEADS, OWN_KINDS, SEGMENTATION_HEADS, TASKS

pytestmark = pytest.mark.once_under_jax

# Runs the installed command for each list of arguments, in one process without Keras, and
# prints what each ends with and says.
SCRIPT = """
import contextlib, io, json, sys
import dmformer_command
found = []
for arguments in json.loads({requests!r}):
    sys.argv = ["dmformer", *arguments]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = dmformer_command.main()
        except SystemExit as end:
            code = end.code
    heavy = [name for name in ("keras", "tensorflow", "jax", "torch") if name in sys.modules]
    assert not heavy, (arguments, heavy)
    found.append([code, said.getvalue()])
print(json.dumps(found))
"""


def outcomes(requests):
    return json.loads(run_python(SCRIPT.format(requests=json.dumps(requests))))


def test_every_help_needs_no_backend():
    requests = [["--help"], *([command, "--help"] for command in COMMANDS), ["presets"]]
    for request, (code, said) in zip(requests, outcomes(requests), strict=True):
        assert code == 0, (request, said)
        assert "usage: dmformer" in said or request == ["presets"]


def test_wrong_requests_are_refused_without_a_backend(tmp_path, tiny_preset, pictures):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "full").mkdir(parents=True)
    (tmp_path / "one" / "void").mkdir()
    (tmp_path / "one" / "full" / "1.png").write_bytes((pictures / "dark" / "00.png").read_bytes())
    (tmp_path / "in_use").mkdir()
    (tmp_path / "in_use" / "a file").touch()
    train = ["train", "--data", str(pictures), "--output", str(tmp_path / "run")]
    elsewhere = ["train", "--output", str(tmp_path / "run"), "--data"]
    picture = str(pictures / "dark" / "00.png")
    cases = {
        2: [
            (["train"], "usage: dmformer train --data SOURCE --output DIR ..."),
            ([*train, "--fast"], "there is no argument '--fast'"),
            ([*train, "--epochs", "many"], "usage: dmformer train"),
            (["predict", "--top", "3"], "usage: dmformer predict MODEL IMAGE... ..."),
            (["fly"], "invalid choice: 'fly'"),
        ],
        1: [
            ([*train, "--epochs", "0"], "epochs must be a whole number"),
            ([*train, "--head", "upernet"], "--head is of --task segment"),
            ([*train, "--preset", "dmformer_q"], "There is no preset or folder 'dmformer_q'"),
            ([*train, "--freeze-backbone"], "no weights, and a frozen backbone"),
            ([*train, "--recipe", "quick"], "There is no recipe 'quick'"),
            ([*train, "--resume"], "no run to resume"),
            ([*elsewhere, "nowhere"], "'nowhere' does not exist"),
            ([*elsewhere, str(tmp_path / "empty")], "no class folders"),
            ([*elsewhere, str(tmp_path / "one")], "'void' of"),
            ([*elsewhere, str(pictures), "--task", "segment"], "no folder 'images/'"),
            ([*train[:-1], str(tmp_path / "in_use")], "is not empty"),
            (["evaluate", "dmformer_n", "--data", "digits"], "without weights"),
            (
                ["evaluate", str(tiny_preset), "--data", str(pictures), "--split", "test"],
                "no 'test'",
            ),
            (["predict", str(tiny_preset), "nowhere.png"], "no file or folder 'nowhere.png'"),
            (["predict", "gone.tflite", picture], "no file or folder 'gone.tflite'"),
            (["explain", str(tiny_preset)], "takes an image, or --data"),
            (["explain", str(tiny_preset), picture, "--output", "a.jpg"], "must end in .png"),
            (["export", str(tiny_preset), "--output", "model.pb"], "ends in none of"),
            (["export", "gone.keras", "--output", "a.onnx"], "no file or folder 'gone.keras'"),
            (["demo", str(tiny_preset), "--port", "0"], "--port must be"),
            (["summary", "dmformer_n", "--head", "upernet"], "add --num-classes"),
            (["package", str(tmp_path / "empty"), "--output", "x", "--data", "x"], "config.json"),
            (["benchmark", "dmformer_n:fast"], "asks for the form 'fast'"),
            (["benchmark", "dmformer_n", "--peers", "nobody"], "--peers takes libraries"),
        ],
    }
    requests = [(code, *case) for code, group in cases.items() for case in group]
    found = outcomes([arguments for _, arguments, _ in requests])
    for (code, arguments, expected), (ended, said) in zip(requests, found, strict=True):
        assert ended == code, (arguments, said)
        assert expected in said, (arguments, said)
        assert "Traceback" not in said


def test_processes_that_train_together_may_find_what_the_first_has_begun(tmp_path, pictures):
    (tmp_path / "begun").touch()
    arguments = ["train", "--data", str(pictures), "--output", str(tmp_path), "--distribute"]
    assert _checked_arguments("train", arguments).distribute


def test_the_work_begins_with_the_whole_package(tmp_path):
    """What the request was read without is there when the work begins."""
    code = (
        "import sys, dmformer_command\n"
        "sys.argv = ['dmformer', 'summary', 'dmformer_n']\n"
        "assert dmformer_command.main() == 0\n"
        "import dmformer_keras\n"
        "assert dmformer_keras.DMFormerN and dmformer_keras.__version__\n"
        "assert dmformer_keras.training.train and dmformer_keras.presets.load_backbone\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "2,208,100" in finished.stdout


def test_what_is_told_without_the_models_is_what_they_say():
    from dmformer_keras.export.onnx import DATA_FORMATS
    from dmformer_keras.training.evaluation import EVALUATION_BATCH_SIZE

    own = {name: row for name, row in TASKS.items() if row.cls.__module__.startswith(
        "dmformer_keras.")}  # fmt: skip
    assert {name: row.kind for name, row in own.items()} == OWN_KINDS
    heads = {name for name, cls in SEGMENTATION_HEADS.items() if cls.__name__ in own}
    assert set(OWN_HEADS) == heads
    text = _help(export_arguments)
    assert all(name in text for name in DATA_FORMATS)
    assert f"default: {EVALUATION_BATCH_SIZE})" in _help(evaluate_arguments)


def _help(module):
    import argparse

    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.format_help()
