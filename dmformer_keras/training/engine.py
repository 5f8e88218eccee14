"""`train`: from a preset and images to a folder with a trained, measured model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from dmformer_keras import presets
from dmformer_keras.data.cache import MEMORY, cached
from dmformer_keras.data.image_source import UnusableImagesError
from dmformer_keras.data.trees import quoted
from dmformer_keras.errors import DAMAGE, DMFormerError, shown
from dmformer_keras.loading import load_trained
from dmformer_keras.system.files import (
    FolderLock,
    WriteError,
    check_room,
    fill_once,
    read_regular_text,
)
from dmformer_keras.system.secrets import without_secrets
from dmformer_keras.training import checkpoint
from dmformer_keras.training.averaging import (
    averaged_weights,
    estimate_statistics,
    keeps_average,
    statistics_set,
    statistics_values,
)
from dmformer_keras.training.batches import (
    stated_data_errors,
    statistics_batches,
    training_batches,
)
from dmformer_keras.training.distribution import join
from dmformer_keras.training.evaluation import tells_top5
from dmformer_keras.training.folders import check_is_free, make_folder
from dmformer_keras.training.identity import describe_differences, identity_of
from dmformer_keras.training.live_teacher import Teacher
from dmformer_keras.training.optimization import compile_for
from dmformer_keras.training.probing import check_can_probe, solve_head
from dmformer_keras.training.progress import compiling_text, shown_progress
from dmformer_keras.training.recipe import Recipe
from dmformer_keras.training.run_checks import (
    check_classes,
    check_distribution,
    check_tensorboard,
    check_updates,
    checked_callbacks,
    steps_of_epoch,
)
from dmformer_keras.training.run_report import (
    REPORT_FILE,
    beginning,
    earlier_trainings,
    name_without_path,
    write_history,
    write_report,
)
from dmformer_keras.training.tasks import task_of
from dmformer_keras.training.teacher import TeacherAnswers, student_model
from dmformer_keras.training.trained_images import (
    changed_images,
    draw_of,
    record_contents,
    record_images,
)
from dmformer_keras.type_names import Data, PathLike

if TYPE_CHECKING:
    from dmformer_keras.training.evaluation import Evaluation
    from dmformer_keras.training.recipe import SegmentationRecipe
    from dmformer_keras.training.segmentation_evaluation import SegmentationEvaluation


TENSORBOARD_FOLDER = "tensorboard"
# The columns of the history, in addition to those of the validation.
_COLUMNS = ("epoch", "learning_rate", "loss", "accuracy", "seconds")


def train(
    recipe: Recipe | SegmentationRecipe,
    preset: PathLike,
    source: Data,
    output: PathLike,
    *,
    resume: bool = False,
    on_corrupt: str = "error",
    tensorboard: bool = False,
    distribute: bool = False,
    cache: PathLike | None = None,
    teacher: PathLike | keras.Model | None = None,
    teacher_cache: PathLike | None = None,
    teacher_classes: Sequence[str] | PathLike | None = None,
    command: str | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 1,
) -> Evaluation | SegmentationEvaluation | None:
    """Trains a model on labeled images and writes everything about it to a folder.

    The recipe says what is trained: a `Recipe` a classifier, a `SegmentationRecipe` a
    segmenter. The folder is a preset of the epoch with the best validation accuracy or
    mIoU (see `from_preset` of the model), beside `history.csv`, `report.json`, `curves.png`
    and `confusion_matrix.png` (with matplotlib), and `checkpoint/`, from which an
    interrupted run is resumed as if it had not been interrupted.

    Python's, NumPy's and the backend's global random seeds are set to the recipe's.

    Args:
        recipe: Recipe or SegmentationRecipe.
        preset: str or path: a built-in name, or the folder of a preset. With weights,
            training starts from them.
        source: what `open_source` takes, with a "train" and a "val" split.
        output: str or path of a folder that is new or empty.
        resume: bool, continue the run in `output`, of the same recipe and images.
        on_corrupt: "error", or "skip" to leave damaged images out.
        tensorboard: bool, also write the history for TensorBoard, to `tensorboard/` in the
            folder; needs TensorFlow and tensorboard, on any backend.
        distribute: bool, train on all devices that this process sees, and together with the
            other processes that were started for it: see `docs/distributed.md`.
        cache: "memory", or a folder, str or path: decode the training images once, and keep their
            pixels there, see `dmformer_keras.data.cached`. Runs may share the folder. None
            decodes them in every epoch.
        teacher: a trained model that answers for each batch, see `dmformer_keras.training.Teacher`:
            what `dmformer_keras.load` takes but exported files, a `.keras` file of any image
            classifier or segmenter, or a `keras.Model`. None for no teacher. The recipe has the
            weight of its answers. A run is resumed with the same teacher.
        teacher_cache: folder of a teacher's answers to the training images, str or path, see
            `dmformer_keras.training.TeacherAnswers`, for a classifier. With a teacher, its answers
            are computed once and kept there, and the teacher is not in memory while training.
        teacher_classes: names of the teacher's classes, in the order of its outputs, where it has
            none: sequence of str, or the path of a text file with one per line.
        command: str or None, kept with the model to say how it was made; a resumed run
            keeps the one that it was begun by.
        callbacks: `keras.callbacks.Callback` objects, for `fit` of every process; they find the
            figures of the validation in their logs (`val_top1`, `val_miou`, `val_loss`, ...).
            Those that keep a state lose it where a run is resumed. Where images grow, `fit` is
            called for each size.
        verbose: 0 for silence, 1 for progress bars, 2 for one line per epoch.

    Returns:
        Evaluation, or SegmentationEvaluation, of the saved model on the validation images;
        None in any but the first of several processes.

    Raises:
        DMFormerError: something asked for is wrong, the folder cannot be written or holds
            something else, or the loss is not finite.

    Example:

    >>> import tempfile
    >>> from dmformer_keras.training import Recipe
    >>> recipe = Recipe(epochs=1, image_size=32, channels=1, batch_size=128)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train(recipe, "dmformer_n", "digits", folder, verbose=0).examples
    179
    """
    distribution = join(distribute)
    with (
        distribution.folder(Path(output), resume) as folder,
        FolderLock(folder) as lock,
        _saying_how_to_go_on(folder),
    ):
        return _Run(
            recipe=recipe, preset=preset, source=source, folder=folder, resume=resume,
            on_corrupt=on_corrupt, tensorboard=tensorboard, cache=cache, teacher=teacher,
            teacher_cache=teacher_cache, teacher_classes=teacher_classes, command=command,
            callbacks=callbacks, verbose=verbose, distribution=distribution, lock=lock,
        ).run()  # fmt: skip


@contextlib.contextmanager
def _saying_how_to_go_on(folder):
    """Adds to what could not be written that the run is not lost."""
    try:
        yield
    except WriteError as error:
        if checkpoint.resumable_epoch(folder) is None:
            raise
        raise WriteError(
            f"{str(error).removesuffix('.')}; then continue the run with resume=True."
        ) from error


class _Run:
    """One call of `train`."""

    def __init__(
        self, *, recipe, preset, source, folder, resume, on_corrupt, tensorboard, cache, teacher,
        teacher_cache, teacher_classes, command, callbacks, verbose, distribution, lock,
    ):  # fmt: skip
        if tensorboard:
            check_tensorboard()
        self.distribution = distribution
        self.tensorboard = tensorboard
        self.recipe = recipe
        self.task = task_of(recipe)
        # Absolute, because a name alone could be that of a built-in preset.
        self.folder = folder.absolute()
        self.lock = lock
        self.resume = resume
        self.command = command
        self.callbacks = checked_callbacks(callbacks)
        self.verbose = verbose if distribution.is_first else 0
        self.twin = None
        self.statistics = None, None
        self.preset = presets.read_preset(preset)
        self.preset_name = str(preset)
        recipe.check_preset(self.preset)
        if resume:
            lock.take()
        # A process that is killed in its first moments leaves a folder and no state.
        begun = resume and not checkpoint.is_untouched(folder)
        self.state = checkpoint.read_state(folder) if begun else None
        if not resume:
            check_is_free(folder)
        # Decoding all images takes long, so once per run, unless some have to be left out.
        verify = on_corrupt == "skip" or not begun
        self.draw = draw_of(self.state and self.state.identity)
        self.train_source, self.val_source = self._open_splits(source, on_corrupt, verify)
        self.image_size = self.task.training_size(self.preset)
        self.phases = recipe.phases(self.image_size)
        # The model may be for larger images than any that it is trained on.
        self.largest_size = self.phases[-1][2]
        self.steps = steps_of_epoch(recipe, self.train_source)
        check_updates(recipe, self.steps)
        if recipe.probe:
            check_can_probe(self.train_source)
        check_distribution(recipe, self.train_source, distribution)
        self.teacher = self._open_teacher(teacher, teacher_cache, teacher_classes)
        self.cache = MEMORY if cache is None and recipe.augment_on_device else cache
        self._check_identity()
        # The images to train on, opened after all quick checks.
        self.shown_source = self.train_source
        if self.cache is not None:
            self.shown_source = cached(
                self.train_source, self.largest_size, self.cache, say=self._say
            )

    def run(self):
        keras.utils.set_random_seed(self.recipe.seed)
        with self.distribution.building():
            self.classifier = self._training_model()
            model = self.classifier
            if self.teacher is not None:
                model = student_model(self.classifier, self.teacher)
            objective = self.task.objective(self.train_source, self.teacher)
            # The learning rate follows the number of images per update.
            batch_size = min(self.recipe.batch_size, len(self.train_source))
            recipe = dataclasses.replace(self.recipe, batch_size=batch_size)
            compile_for(recipe, model, self.steps, *objective, self.distribution.optimizer_class)
        if self.recipe.progressive_resizing or self.distribution.replicas > 1:
            self.twin = self._built_model(self.image_size)
        self._say(beginning(self, self.classifier))
        self._start_or_restore(model)
        self.distribution.connect(model)
        if self.state.epoch < self.recipe.epochs:
            self._fit(model)
        return self._report() if self.distribution.is_first else None

    def finish_epoch(self, model, row):
        """Saves the results of an epoch; the checkpoint first, see `_start_or_restore`."""
        self.state.history.append(row)
        checkpoint.save_epoch(self.folder, self.state, model)
        self._save_if_best(model)
        write_history(self.folder, self.state.history)

    def _open_splits(self, source, on_corrupt, verify):
        """Opens both splits; reports the damaged images of both together."""
        opened, refused = [], []
        for split in ("train", "val"):
            try:
                opened.append(
                    self.task.open(
                        source, split, on_corrupt=on_corrupt, verify=verify, draw=self.draw
                    )
                )
            except UnusableImagesError as error:
                refused.append(error)
        if refused:
            raise functools.reduce(UnusableImagesError.with_those_of, refused)
        return opened

    def _open_teacher(self, teacher, folder, class_names):
        """What is learned from beside the labels: Teacher, TeacherAnswers or None."""
        if folder is not None and not isinstance(self.recipe, Recipe):
            raise DMFormerError(
                "A teacher's stored outputs are for training a classifier; leave out teacher_cache "
                "(--teacher-cache), and give the teacher itself."
            )
        if teacher is None:
            if folder is None:
                return None
            return TeacherAnswers(folder, self.train_source, self.recipe.temperature)
        with self.distribution.building():
            opened = Teacher(
                teacher, self.train_source, self.recipe.temperature,
                segments=not isinstance(self.recipe, Recipe),
                image_size=self.recipe.teacher_image_size, class_names=class_names,
            )  # fmt: skip
        if folder is None:
            return opened
        self._store_answers(opened, Path(folder))
        return TeacherAnswers(folder, self.train_source, self.recipe.temperature)

    def _store_answers(self, teacher, folder):
        def fill():
            self._say(
                f"Computing the outputs of {teacher.name} for {len(self.train_source):,} training "
                f"images, once, to store them in {folder}"
            )
            teacher.store_answers(
                folder, self.train_source, self.largest_size, progress=bool(self.verbose)
            )

        fill_once(
            folder,
            lambda: teacher.has_stored(folder),
            fill,
            lambda: self._say(f"Waiting for another process to write {folder}"),
        )

    def _check_identity(self):
        """Sets a new run's state, or checks that an old one's is of this very run."""
        check_classes(self.train_source, self.task.kind)
        identity = identity_of(
            self.recipe, self.preset, self.train_source, self.val_source, self.draw
        )
        if self.cache is not None and not self.recipe.augment_on_device:
            # Made smaller once, pixels are a level or two from those of the files.
            identity["data"]["cache"] = True
        if self.teacher is not None:
            identity["teacher"] = self.teacher.identity()
        if self.state is None:
            self.state = checkpoint.RunState(identity, begun=self._begun())
            return
        differences = describe_differences(self.state.identity, identity, type(self.recipe))
        if not differences:
            changed = changed_images(self.folder, (self.train_source, self.val_source))
            if changed:
                differences = [f"{len(changed)} changed image(s), such as {quoted(changed[0])}"]
        if differences:
            raise DMFormerError(
                f"The run in {str(self.folder)!r} was started with other settings: "
                f"{', '.join(differences)}; resume it with the same, or start another in "
                "another folder."
            )
        self._check_history()

    def _check_history(self):
        """Checks that the rows of a resumed run have what is read of them at its end."""
        history = self.state.history
        columns = set(max(history, key=len, default=()))
        for row in history:
            validated = self.is_validated(row["epoch"])
            wanted = {*_COLUMNS, *(self.task.ranked_by if validated else ())}
            wrong = sorted(wanted - row.keys()) or sorted(row.keys() - columns)
            if wrong:
                path = self.folder / checkpoint.CHECKPOINT_FOLDER / checkpoint.STATE_FILE
                raise DMFormerError(
                    f"{str(path)!r} is damaged: {shown(wrong[0])} of epoch {row['epoch']} is "
                    "missing or unknown; start the run again in another folder."
                )

    def _begun(self):
        """How this run was started, for the report and the model card."""
        # No token may be published in the report or on the model card.
        command = None if self.command is None else without_secrets(self.command)
        begun = {"command": command, "preset": self.preset_name, "earlier": []}
        if self.preset.has_weights:
            with contextlib.suppress(*DAMAGE):
                text = read_regular_text(self.preset.folder / REPORT_FILE)
                begun["earlier"] = earlier_trainings(json.loads(text))
        return begun

    def _training_model(self):
        size = (None, None) if self.recipe.progressive_resizing else self.image_size
        return self._built_model(size)

    @contextlib.contextmanager
    def kept_model(self, model):
        """The model with the weights that count, while it is looked at.

        Where images grow, or several devices train, that is a twin, of the last size and on
        one device.
        """
        with averaged_weights(model):
            kept = self.classifier
            if self.twin is None:
                with self._statistics_of_average(model, kept):
                    yield kept
                return
            self.twin.set_weights(kept.get_weights())
        with self.distribution.evaluating(), self._statistics_of_average(model, self.twin):
            yield self.twin

    def _statistics_of_average(self, model, kept):
        """A context in which BatchNorm has the statistics of the averaged weights."""
        if not keeps_average(model):
            return contextlib.nullcontext()
        updates = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
        if self.statistics[0] != updates:
            with statistics_set(kept, statistics_values(kept)):
                batches = statistics_batches(
                    self.shown_source, self.recipe, self.image_size, updates // self.steps
                )
                self.statistics = updates, estimate_statistics(kept, batches)
        return statistics_set(kept, self.statistics[1])

    def _built_model(self, image_size):
        recipe = self.recipe
        overrides = {
            "data_format": "channels_last",
            "include_rescaling": True,  # the images are in 0..255
            "dtype": recipe.precision,
            "gradient_checkpointing": recipe.gradient_checkpointing,
        }
        if recipe.stochastic_depth is not None:
            overrides["stochastic_depth"] = recipe.stochastic_depth
        model = self.task.build(self.preset, self.train_source, overrides, image_size)
        if recipe.freeze_backbone:
            # Layer by layer: the backbone's own flag would be saved with it.
            for layer in model.backbone.layers:
                layer.trainable = False
        return model

    def _start_or_restore(self, model):
        if self.state.epoch:
            self._restore(model)
            # The interruption may have come between the checkpoint and the preset.
            for leftover in self.folder.glob(f"{presets.SAVING}*"):
                shutil.rmtree(leftover)
            self._save_if_best(model)
            write_history(self.folder, self.state.history)
            return
        if self.recipe.probe:
            self._probe()
        check_room(self.folder, checkpoint.checkpoint_bytes(model))
        make_folder(self.folder)
        self.lock.take()
        if not self.resume:
            check_is_free(self.folder)  # once more: another process may have been faster
        make_folder(self.folder / checkpoint.CHECKPOINT_FOLDER)
        checkpoint.write_state(self.folder, self.state)
        if self.distribution.is_first:
            record_images(self.folder, self.train_source)
            record_contents(self.folder, (self.train_source, self.val_source))

    def _probe(self):
        """Solves the head on the frozen features, and reports its accuracy."""
        self._say("Linear probe: computing the features of the training images")
        shown = bool(self.verbose)
        solve_head(
            self.classifier,
            self.train_source,
            self.image_size,
            most=self.recipe.images_per_epoch,
            progress=shown,
        )
        probed = self.classifier if self.twin is None else self.twin
        probed.set_weights(self.classifier.get_weights())
        with self.distribution.evaluating():
            found = self.task.evaluate(probed, self.val_source, progress=shown)
        self._say(f"Linear probe: top-1 {found.top1:.2%} of {found.examples:,} validation images")
        self.state.begun["probe"] = {"top1": found.top1, "examples": found.examples}

    def _restore(self, model):
        with self.distribution.building():
            checkpoint.restore_epoch(self.folder, self.state, model)

    def _fit(self, model):
        for first, end, image_size in self.phases:
            if self.state.epoch == first > 0:
                # At its end `fit` replaces the weights by their averages.
                self._restore(model)
            if self.state.epoch < end:
                self._fit_phase(model, max(first, self.state.epoch), end, image_size)
            if model.stop_training:  # a callback asked for it
                break

    def _fit_phase(self, model, first, end, image_size):
        """Trains for some epochs on images of one size."""
        batches = training_batches(
            self.shown_source,
            self.recipe,
            image_size,
            first * self.steps,
            self.distribution.shard,
            answers=None if self.teacher is None or self.teacher.is_live else self.teacher,
        )
        # TensorFlow would relax the step that it has to one for images of any size.
        model.make_train_function(force=True)
        if text := compiling_text(keras.backend.backend(), first + 1):
            self._say(text)
        # The history holds it anyway.
        hidden = () if tells_top5(self.train_source.class_names) else ("val_top5",)
        with (
            stated_data_errors(),
            self.distribution.fitting(),
            shown_progress(self.verbose, hidden) as progress,
        ):
            model.fit(
                self.distribution.batches(model, batches),
                # The batches are shuffled already; Keras would warn.
                shuffle=False,
                steps_per_epoch=self.steps,
                initial_epoch=first,
                epochs=end,
                callbacks=[
                    _EpochEnd(self, self.val_source),
                    *self._logs(),
                    *self.callbacks,
                    *progress,
                ],
                verbose=self.verbose,
            )

    def _logs(self):
        """After `_EpochEnd`, whose figures it writes, too."""
        if not self.tensorboard:
            return []
        folder = str(self.folder / TENSORBOARD_FOLDER)
        return [keras.callbacks.TensorBoard(folder, write_graph=False)]

    def is_validated(self, epoch):
        """Tells whether the validation images are looked at after an epoch, counted from 1."""
        return epoch % self.recipe.validate_every == 0 or epoch == self.recipe.epochs

    def _save_if_best(self, model):
        row = self.state.history[-1]
        if row is not self._best_epoch():
            return
        metrics = {name: row[name] for name in row if name.startswith("val_")}
        with self.kept_model(model) as kept:
            kept.save_to_preset(
                self.folder,
                # Names, not paths, because the folder may be shared.
                description=f"{name_without_path(self.preset.name)} trained on "
                f"{name_without_path(self.train_source.title)}",
                class_names=self.train_source.class_names,
                recipe=self.state.identity["recipe"],
                metrics={"epoch": row["epoch"], **metrics},
                command=self.state.begun.get("command"),
            )

    def _best_epoch(self):
        """The row of the epoch that is kept, the first of the best; None before any."""
        validated = [row for row in self.state.history if self.is_validated(row["epoch"])]
        return max(validated, key=self.task.rank, default=None)

    def _report(self):
        """Measures the saved model as `dmformer evaluate` does, and writes that down."""
        history = self.state.history
        best = self._best_epoch()
        if best is None:
            raise DMFormerError(
                f"A callback stopped the training after epoch {len(history)}, before any "
                f"validation; with validate_every=1 each epoch has one."
            )
        self._say(f"Evaluating the best epoch, {best['epoch']}, from {self.folder}")
        evaluation = self.task.evaluate(
            load_trained(self.folder), self.val_source, progress=bool(self.verbose)
        )
        if not write_report(self, best, evaluation):
            self._say(
                "No pictures were drawn: matplotlib is not installed; "
                'pip install "dmformer-keras[plots]" brings it.'
            )
        return evaluation

    def _say(self, text):
        if self.verbose:
            print(text, flush=True)


class _EpochEnd(keras.callbacks.Callback):
    """Measures and saves after each epoch; stops at a loss that is not finite."""

    def __init__(self, run, val_source):
        super().__init__()
        self.run = run
        self.val_source = val_source
        self.epoch = 0
        self.started = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1
        self.started = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        # Not at the epoch's begin: making the iterator of the batches draws a number too,
        # and only the first epoch of a process has to.
        if batch == 0 and keras.backend.backend() == "torch":
            _seed_torch(self.run.recipe.seed, self.epoch, self.run.distribution.process)

    def on_train_batch_end(self, batch, logs=None):
        # The running mean of the epoch: once not finite, it stays so.
        if not math.isfinite(float(logs["loss"])):
            raise DMFormerError(
                f"The loss became {float(logs['loss'])} in epoch {self.epoch}, and training was "
                "stopped; start again with a lower learning rate, a longer warm-up or float32 "
                "(the epochs finished before are kept)."
            )

    def on_epoch_end(self, epoch, logs=None):
        measured = self._validated() if self.run.is_validated(self.epoch) else {}
        figures = {"loss": float(logs["loss"]), "accuracy": float(logs["accuracy"])}
        row = {
            "epoch": self.epoch,
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            **self.run.distribution.mean(figures),
            **measured,
            "seconds": round(time.perf_counter() - self.started, 2),
        }
        self.run.finish_epoch(self.model, row)
        # Keras shows, after its own, what it finds here.
        logs.update(measured)

    def _validated(self):
        with self.run.kept_model(self.model) as kept:
            metrics = self.run.task.evaluate(kept, self.val_source).metrics()
        return {f"val_{name}": value for name, value in metrics.items() if name != "examples"}


def _seed_torch(seed, epoch, process):
    """Starts PyTorch's global generator anew, so that a resumed epoch draws the same numbers.

    Keras's dropout draws from it under PyTorch; elsewhere it has its own seed, which the
    checkpoint keeps.
    """
    import torch

    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, process]).generate_state(1)[0]))
