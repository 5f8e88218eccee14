"""From a finished run to a preset you can share: smaller weights, a model card."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from dmformer_keras import presets
from dmformer_keras.complexity import count_multiply_accumulates
from dmformer_keras.errors import DAMAGE, DMFormerError
from dmformer_keras.inference.model_outputs import is_segmenter
from dmformer_keras.loading import load_trained
from dmformer_keras.presets.markdown import escaped, fenced
from dmformer_keras.system.files import read_regular_text, stated_write_errors, stored_bytes
from dmformer_keras.system.machine import machine_sentence
from dmformer_keras.system.scratch import scratch_folder
from dmformer_keras.system.secrets import without_secrets
from dmformer_keras.training.folders import check_is_free
from dmformer_keras.training.recipe import Recipe, SegmentationRecipe
from dmformer_keras.training.run_report import (
    CURVES_FILE,
    HISTORY_FILE,
    REPORT_FILE,
    earlier_trainings,
    name_without_path,
)
from dmformer_keras.training.tasks import task_of
from dmformer_keras.training.trained_images import draw_of_run, trained_on_warning
from dmformer_keras.type_names import PathLike

if TYPE_CHECKING:
    from dmformer_keras.training.evaluation import Evaluation
    from dmformer_keras.training.segmentation_evaluation import SegmentationEvaluation


CARD_FILE = "README.md"
# What a share may lose by half precision before float32 is kept: less than a report's
# last digit but one.
LARGEST_LOSS = 0.0005
MOST_LISTED = 20  # classes in a card's first paragraph


def package(
    run: PathLike,
    output: PathLike,
    source: PathLike,
    split: str = "val",
    notes: str = "",
    *,
    on_corrupt: str = "error",
) -> Evaluation | SegmentationEvaluation:
    """Creates a preset you can share from a training run: weights, metadata, history, model card.

    Kernels are stored in float16 where the accuracy or mIoU on `source` stays within 0.05
    points. All figures of the card are measured on what is in the folder then, as `dmformer
    evaluate` repeats them. What tells the run's training images stays in the run: the folder may
    be given to those who should not know them.

    Args:
        run: str or path, the folder that `train` has finished.
        output: str or path of a folder that is new or empty; its name is the preset's.
        source: str, the data that the card's figures are of, as `open_source` takes them.
        split: "val" or "test", of the data.
        notes: str, Markdown that the card ends with: the data's licence, limits.
        on_corrupt: "error", or "skip" to leave damaged images out.

    Returns:
        Evaluation or SegmentationEvaluation, of what is in the folder.

    Raises:
        DMFormerError: the run is not finished, the folder is in use, or the split is another.
    """
    given = Path(output)
    # Absolute: a name alone would be a built-in preset's, where there is one.
    run, output = Path(run).absolute(), given.resolve()
    built_in = output.parent == presets.weights_folder().resolve()
    # No path of this machine, where there is a way around it.
    here = given.name and not given.is_absolute()
    address = given.as_posix() if here and not built_in else output.name
    report = _read_report(run)
    if split not in ("val", "test"):
        raise DMFormerError(
            f"A card's figures are of images that were not trained on: split must be val or test, "
            f"not {split!r}."
        )
    check_is_free(output)
    # Beside it the preset is put together.
    check_is_free(output.parent / f"{presets.SAVING}{output.name}")
    # In which precision it was trained says nothing of where it will run.
    model = load_trained(run, dtype="float32")
    recipe = (SegmentationRecipe if is_segmenter(model) else Recipe)(**report["recipe"])
    task = task_of(recipe)
    opened = task.open(source, split, on_corrupt=on_corrupt, draw=draw_of_run(run))
    if warning := trained_on_warning(run, opened):
        raise DMFormerError(f"A card's figures are of images that were not trained on: {warning}")
    metadata = _kept_metadata(run)
    metadata["draw"] = draw_of_run(run)
    metadata["description"] = (
        f"A DMFormer {task.kind} of {len(opened.class_names)} classes, trained on "
        f"{name_without_path(report['data'])}."
    )
    whole = task.evaluate(model, opened)

    name = task.best.removeprefix("val_")
    stack = contextlib.ExitStack()
    with stated_write_errors(output, stored_bytes(model.weights)):
        output.parent.mkdir(parents=True, exist_ok=True)
        beside = stack.enter_context(scratch_folder(output.parent, presets.SAVING))
    with stack:
        folder = beside / output.name

        def stored(half_precision):
            model.save_to_preset(folder, half_precision=half_precision, **metadata)
            return task.evaluate(load_trained(folder), opened)

        evaluation, half = stored(half_precision=True), True
        if abs(getattr(evaluation, name) - getattr(whole, name)) > LARGEST_LOSS:
            evaluation, half = stored(half_precision=False), False
        with stated_write_errors(output):
            for file in (HISTORY_FILE, CURVES_FILE):
                if (run / file).is_file():
                    shutil.copyfile(run / file, folder / file)
            card = _Card(
                folder, address, model, report, recipe, task, evaluation, opened, split, half, notes
            )
            (folder / CARD_FILE).write_text(card.text(), encoding="utf-8")
            if output.is_dir():
                output.rmdir()
            folder.rename(output)
    return evaluation


def _read_report(run):
    try:
        return _checked_report(json.loads(read_regular_text(run / REPORT_FILE)))
    except DAMAGE as error:
        raise DMFormerError(
            f"{str(run)!r} holds no finished training run ({REPORT_FILE} cannot be read); give "
            "the --output of `dmformer train` after it has ended."
        ) from error


def _checked_report(report):
    """Returns a report, or raises a ValueError where it lacks what a card says of it."""
    numbers = ("training_images", "epochs", "best_epoch", "training_seconds")
    right = isinstance(report["recipe"], dict) and isinstance(report["data"], str)
    right = right and all(isinstance(report[name], int | float) for name in numbers)
    if not right or not isinstance(report["backend"], str):
        raise ValueError("it is of another kind")
    return report


def _kept_metadata(run):
    """What the run's own preset says, but for what saving writes anew."""
    metadata = presets.read_preset(run).metadata
    written = ("parameters", "keras_version", "date_saved", "files")
    kept = {key: value for key, value in metadata.items() if key not in written}
    if isinstance(kept.get("command"), str):
        kept["command"] = without_secrets(kept["command"])
    return kept


@dataclasses.dataclass
class _Card:
    """A model card, section by section."""

    output: Path
    address: str  # what a user names it by
    model: keras.Model
    report: dict
    recipe: Recipe | SegmentationRecipe
    task: object
    evaluation: object
    source: object
    split: str
    half: bool
    notes: str

    def text(self):
        sections = [self._head(), self._use(), self._result(), self._training(), self.notes]
        text = "\n\n".join(section.strip() for section in sections if section.strip()) + "\n"
        return without_secrets(text)

    @property
    def data(self):
        return name_without_path(self.source.title)

    def _head(self):
        size = self.model.input.shape[1:3]
        operations = ""
        if None not in size:
            count = count_multiply_accumulates(self.model)
            operations = f", {count / 1e9:.2f} G multiply-accumulates at {size[0]}x{size[1]}"
        precision = "kernels in float16, the rest in float32" if self.half else "float32"
        names = self.source.class_names
        listed = "The classes are listed below, with the accuracy of each."
        if len(names) <= MOST_LISTED:
            listed = f"Classes: {', '.join(map(escaped, names))}."
        return (
            f"# {escaped(self.output.name)}\n\nA DMFormer {self.task.kind} of "
            f"{len(names)} classes: {self.model.count_params():,} parameters"
            f"{operations}. Stored: {precision}. {listed}"
        )

    def _use(self):
        cls = type(self.model).__name__
        name = json.dumps(self.address, ensure_ascii=False)
        use = f"from dmformer_keras import {cls}\n\nmodel = {cls}.from_preset({name})"
        predict = f"dmformer predict {shlex.quote(self.address)} IMAGE..."
        return f"## Use\n\n{fenced(use, 'python')}\n\n{fenced(predict, 'sh')}"

    def _result(self):
        metrics = self.evaluation.metrics()
        examples = metrics.pop("examples")
        split = "" if self.split == "val" else f" --split {self.split}"
        rows = [f"| {name.replace('_', ' ')} | {_figure(name, one)} |" for name, one in
                metrics.items()]  # fmt: skip
        by_class = getattr(self.evaluation, "class_iou", self.evaluation.class_accuracy)
        known = sorted(by_class.items(), key=lambda item: -(item[1] or 0))
        classes = ", ".join(f"{escaped(name)} {_figure('class', one)}" for name, one in known)
        kind = "Intersection over union" if hasattr(self.evaluation, "class_iou") else "Accuracy"
        command = (
            f"dmformer evaluate {shlex.quote(self.address)} --data {shlex.quote(self.data)}{split}"
        )
        return (
            f"## Result\n\nOn {escaped(self.data)}, split {self.split}, {examples:,} images:"
            f"\n\n| | |\n|---|---:|\n{chr(10).join(rows)}\n\n{kind} by class: "
            f"{classes}.\n\n{fenced(command, 'sh')}"
        )

    def _training(self):
        report = self.report
        trainings = earlier_trainings(report)
        commands = "\n".join(one["command"] or "(by the Python interface)" for one in trainings)
        hours = sum(one["training_seconds"] for one in trainings) / 3600
        machines = "; ".join(dict.fromkeys(_machine(one) for one in trainings))
        teachers = dict.fromkeys(one["teacher"] for one in trainings if one.get("teacher"))
        taught = f" Taught by {'; '.join(map(escaped, teachers))}." if teachers else ""
        default = dataclasses.asdict(type(self.recipe)())
        # What is not on is not worth a word, unless it is by default.
        given = ", ".join(
            f"{key} {value}"
            for key, value in dataclasses.asdict(self.recipe).items()
            if value or value != default[key]
        )
        epochs, best = report["epochs"], report["best_epoch"]
        chosen = f"the best of {epochs} epochs, {best}, by the validation images"
        if self.recipe.validate_every >= epochs:
            chosen = f"the last of {epochs} epochs, the only one that was validated"
        precision = "" if self.recipe.precision == "float32" else f" in {self.recipe.precision}"
        curves = f"![Loss and accuracy by epoch]({CURVES_FILE})\n\n"
        return (
            f"## Training\n\n{fenced(commands, 'sh')}\n\n"
            f"{report['training_images']:,} training images; {chosen}; {hours:.1f} hours"
            f"{' for all commands above' if len(trainings) > 1 else ''} with "
            f"{machines}.{taught}\n\nRecipe: {given}.\n\n"
            f"{curves if (self.output / CURVES_FILE).is_file() else ''}"
            f"All epochs: [{HISTORY_FILE}]({HISTORY_FILE}), as measured in training{precision}; "
            "the result above is of the stored weights."
        )


def _machine(training):
    """The backend, machine and libraries of a training, in words."""
    backend, machine = training["backend"], training.get("machine")
    if not machine:
        return backend
    used = ("dmformer-keras", "keras", backend)
    libraries = {name: machine["libraries"].get(name) for name in used}
    return f"{backend} on {machine_sentence({**machine, 'libraries': libraries}).removesuffix('.')}"


def _figure(name, value):
    if value is None:
        return "no images"
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f} %"
