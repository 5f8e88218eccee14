"""The reports of a run: a few printed lines, `history.csv`, `report.json` and pictures."""

import csv
import json
from pathlib import Path

import keras

from dmformer_keras.data.image_source import skipped_files, skipped_lines
from dmformer_keras.system.files import written_whole
from dmformer_keras.system.machine import describe_machine
from dmformer_keras.training import figures

HISTORY_FILE = "history.csv"
CURVES_FILE = "curves.png"
CONFUSION_FILE = "confusion_matrix.png"
REPORT_FILE = "report.json"


def beginning(run, model):
    """Says what is trained, on what, and from where, in some lines."""
    preset, train, val = run.preset, run.train_source, run.val_source
    sizes = " then ".join(f"{h}x{w}" for _, _, (h, w) in run.phases)
    if run.largest_size != run.image_size:
        sizes += ", for {}x{}".format(*run.image_size)
    start = "its weights" if preset.has_weights else "random weights"
    if preset.has_weights and not run.task.keeps_head(preset, train, model):
        start = "its weights and a new head"
    devices = run.distribution.replicas
    lines = [
        f"{name_without_path(preset.name)}: {model.count_params():,} parameters, {sizes}, "
        f"{train.channels} channels, from {start}, on {keras.backend.backend()}"
        f"{f', {devices} devices' if devices > 1 else ''}",
        f"{train.title}: {len(train):,} training and {len(val):,} validation images of "
        f"{len(train.class_names)} classes",
    ]
    if tip := run.recipe.tip(preset, len(train)):
        lines.append(tip)
    if skipped := skipped_files(train, val):
        reasons = [reason for _, reason in skipped]
        lines.append(skipped_lines(reasons, where=f": {REPORT_FILE} lists all"))
    if run.state.epoch:
        lines.append(f"Resuming after epoch {run.state.epoch} of {run.recipe.epochs}")
    return "\n".join(lines)


def write_history(folder, history):
    """Writes `history.csv`."""
    with (
        written_whole(folder / HISTORY_FILE) as path,
        open(path, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=max(history, key=len))
        writer.writeheader()
        writer.writerows(history)


def write_report(run, best, evaluation):
    """Writes `report.json`, and the pictures where matplotlib is installed; returns a bool, whether
    pictures were drawn.
    """
    history = run.state.history
    report = {
        **run.state.begun,
        "data": run.train_source.title,
        "training_images": len(run.train_source),
        "skipped_images": skipped_files(run.train_source, run.val_source),
        "backend": keras.backend.backend(),
        "recipe": run.state.identity["recipe"],
        "teacher": None if run.teacher is None else run.teacher.described(),
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "training_seconds": sum(row["seconds"] for row in history),
        "machine": describe_machine(threads=None),
        "validation": run.task.report(evaluation),
    }
    if figures.can_draw():
        figures.draw_curves(history, run.task.curves, run.folder / CURVES_FILE)
        run.task.draw_confusion(evaluation, run.folder / CONFUSION_FILE)
    with written_whole(run.folder / REPORT_FILE) as path:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return figures.can_draw()


def earlier_trainings(report):
    """Lists the trainings that a run's weights came from, the run's own being the last; returns a
    list of dicts: "command", "training_seconds", "backend", "machine", "teacher".
    """
    own = ("command", "training_seconds", "backend", "machine", "teacher")
    return [*report.get("earlier", []), {name: report.get(name) for name in own}]


def name_without_path(title):
    """The name of data or of a preset, which may be given by a path."""
    return Path(title.strip("'")).name
