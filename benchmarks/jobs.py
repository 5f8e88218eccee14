"""Trainings in processes of their own: each once, and several at a time."""

import concurrent.futures
import json
import os
import subprocess
import sys


def train_once(output, *options):
    """Runs `dmformer train` into a folder unless it has finished there; returns its report."""
    report = output / "report.json"
    if not report.is_file():
        command = ["train", "--output", str(output), *map(str, options)]
        if (output / "checkpoint" / "state.json").is_file():
            command.append("--resume")
        subprocess.run([sys.executable, "-m", "dmformer_keras.cli", *command], check=True)
    return json.loads(report.read_text())


def side_by_side(train, runs, jobs):
    """Calls `train(run, environment)` for each run, `jobs` at a time.

    `environment` is for the process that `train` starts: an equal share of the processors.
    """
    threads = max((os.cpu_count() or 1) // jobs, 1)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
    }
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda run: train(run, environment), runs))
