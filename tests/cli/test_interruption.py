"""Ctrl-C, as a terminal sends it, and the continuation that the command then names."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dmformer_keras.cli import main

# JAX compiles for minutes on a CPU.
pytestmark = pytest.mark.slow(on=["jax"])

COMMAND = [sys.executable, "-m", "dmformer_keras.cli"]


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_keeps_the_finished_epochs_and_says_how_to_go_on(train_arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    state = folder / "checkpoint" / "state.json"
    # So many epochs that the interruption falls into one.
    arguments = [*train_arguments, "--epochs", "500", "--output", str(folder)]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: what a script starts in the background ignores Ctrl-C, and hands
        # that on to its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while not (state.exists() and json.loads(state.read_text())["history"]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.rstrip().splitlines()[-1].startswith("Interrupted. ")
    assert errors.rstrip().endswith("--resume")
    assert "Traceback" not in errors
    assert len(json.loads(state.read_text())["history"]) >= 1

    assert main([*arguments, "--resume", "--seed", "1"]) == 1
    assert "seed (0, now 1)" in capsys.readouterr().err


def test_an_interruption_before_anything_was_written_says_so(monkeypatch, capsys, tmp_path):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmformer_keras.cli.train.train", interrupt)
    assert main(["train", "--data", "digits", "--output", str(tmp_path / "run")]) == 130
    assert "start over" in capsys.readouterr().err
