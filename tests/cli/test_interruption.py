"""Ctrl-C, as a terminal sends it, and the continuation that the command then names."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref

import keras
import numpy as np
import pytest

from dmformer_keras.cli import main
from dmformer_keras.training import engine, load_classifier
from dmformer_keras.training.batches import training_batches

COMMAND = [sys.executable, "-m", "dmformer_keras.cli"]


@pytest.mark.once_under_torch
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


@pytest.mark.once_under_torch
def test_what_was_interrupted_is_gone_before_python_ends(train_arguments, tmp_path, monkeypatch):
    """A dataset's threads would wait for Python, which would wait for them."""
    kept = []

    def watched(*args, **options):
        batches = training_batches(*args, **options)
        kept.append(weakref.ref(batches))
        return batches

    def interrupt(self, batch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "training_batches", watched)
    monkeypatch.setattr(engine._EpochEnd, "on_train_batch_end", interrupt)
    assert main([*train_arguments, "--output", str(tmp_path / "run")]) == 130
    assert [reference() for reference in kept] == [None]


@pytest.mark.once_under_torch
def test_an_interruption_before_anything_was_written_says_so(monkeypatch, capsys, tmp_path):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmformer_keras.cli.train.train", interrupt)
    assert main(["train", "--data", "digits", "--output", str(tmp_path / "run")]) == 130
    assert "start over" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(train_arguments, tmp_path):
    options = ["--epochs", "8", "--ema", "0.9", "--mixup", "0.2", "--stochastic-depth", "0.2"]
    arguments = [*train_arguments, "--augmentation", "standard", *options]

    def start(folder, *more):
        return subprocess.Popen(
            [*COMMAND, *arguments, "--output", str(folder), *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    begin = time.monotonic()
    whole = start(tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    duration = time.monotonic() - begin
    folder, kills = tmp_path / "killed", 0
    state = folder / "checkpoint" / "state.json"
    rng = np.random.default_rng()
    while kills < 6:
        process = start(folder, *(["--resume"] if folder.exists() else []))
        try:
            # At times before anything is written, mostly within the epochs.
            assert process.wait(timeout=duration * rng.uniform(0.2, 0.9)) == 0, (
                process.stderr.read()
            )
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    finished = start(folder, "--resume")
    assert finished.wait() == 0, finished.stderr.read()
    assert kills >= 1
    assert len(json.loads(state.read_text())["history"]) == 8
    assert not list(folder.glob(".*"))
    for one, other in zip(*map(_outcome, (folder, tmp_path / "whole")), strict=True):
        # TensorFlow's threads do not add in a fixed order, and JAX's need not.
        exact = keras.config.backend() == "torch"
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(one, other, **tolerance)


def _outcome(folder):
    """All numbers that a run ends with: of the kept model, the last one and its optimizer."""
    (last,) = (folder / "checkpoint").glob("*.keras")
    model = keras.saving.load_model(last)
    weights = [*model.weights, *model.optimizer.variables, *load_classifier(folder).weights]
    rows = json.loads((folder / "checkpoint" / "state.json").read_text())["history"]
    figures = [[row["loss"], row["val_loss"], row["learning_rate"]] for row in rows]
    return [np.array(figures), *(keras.ops.convert_to_numpy(weight) for weight in weights)]
