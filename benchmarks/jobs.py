"""Trainings in processes of their own: each once, and several at a time."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path


def check_same_settings(runs, settings):
    """Ends the program if a folder holds runs of other settings; a new one keeps them."""
    from dmformer_keras.system.files import written_whole

    path = runs / "settings.json"
    if not path.is_file():
        if runs.is_dir() and any(runs.iterdir()):
            sys.exit(f"{runs} holds files, and no settings.json; choose another --runs.")
        runs.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as beside:
            beside.write_text(json.dumps(settings, indent=1) + "\n")
    elif not are_same(json.loads(path.read_text()), settings):
        sys.exit(f"{runs} holds runs of other settings; choose another --runs.")


def are_same(stored, settings):
    """Tells whether stored settings are these: a field that a recipe got later has its default."""
    from dmformer_keras.training import Recipe

    # JSON makes lists of tuples, as in the stored ones.
    stored, settings, defaults = (
        json.loads(json.dumps(one)) for one in (stored, settings, dataclasses.asdict(Recipe()))
    )
    if "recipe" in stored:
        stored["recipe"] = defaults | stored["recipe"]
    return stored == settings


def check_names(data):
    """Ends the program if two data sets have the same name, by which results are kept."""
    names = [Path(one).name for one in data]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        sys.exit(f"Two data sets are called {repeated[0]}; rename one of the folders.")


def check_presets(presets, architecture):
    """Ends the program unless presets have weights, and the shape of an architecture without."""
    from dmformer_keras.presets import read_preset

    expected = read_preset(architecture)
    if expected.has_weights:
        sys.exit("--architecture must have no weights.")
    for name in presets:
        preset = read_preset(name)
        if not preset.has_weights:
            sys.exit(f"{name} has no weights; `random` stands for those of --architecture.")
        for part in ("channels", "depths"):
            if list(preset.config[part]) != list(expected.config[part]):
                sys.exit(
                    f"{name} and {architecture} differ in {part}; name the --architecture of the "
                    "presets."
                )


def run_name(start):
    """The name of a start's runs, other ones where a preset has other weights."""
    from dmformer_keras.presets import read_preset

    if start == "random":
        return start
    weights = read_preset(start).metadata["files"]["model.weights.h5"]
    return f"{Path(start).name}-{weights['sha256'][:8]}"


@contextlib.contextmanager
def whole_folder(folder):
    """Gives a folder beside another to write to, and renames it: what is there is complete."""
    beside = folder.with_name(folder.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    yield beside
    beside.rename(folder)


def train_once(output, *options):
    """Runs `dmformer train` into a folder unless it has finished there; returns its report."""
    report = output / "report.json"
    if not report.is_file():
        command = ["train", "--output", str(output), *map(str, options)]
        if (output / "checkpoint" / "state.json").is_file():
            command.append("--resume")
        subprocess.run([sys.executable, "-m", "dmformer_keras.cli", *command], check=True)
    return json.loads(report.read_text())


def measured_once(path, measure):
    """What `measure()` returns, a JSON value, from a file where it was written before."""
    from dmformer_keras.system.files import written_whole

    if not path.is_file():
        value = measure()
        with written_whole(path) as beside:
            beside.write_text(json.dumps(value) + "\n")
    return json.loads(path.read_text())


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
