"""A run, its folder, and its continuation after an interruption."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import TO_TRAIN, array, tiny_classifier
from PIL import Image

from dmformer_keras import DMFormerClassifier, DMFormerError
from dmformer_keras.data import cache, open_source, steps_per_epoch
from dmformer_keras.training import (
    Recipe,
    checkpoint,
    engine,
    evaluate,
    load_classifier,
    tasks,
    train,
)

# JAX compiles for minutes on a CPU.
pytestmark = pytest.mark.slow(on=["jax"])


def rows(folder):
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def final_weights(folder):
    """Every weight of the last epoch's checkpoint, and the optimizer's state."""
    (path,) = (folder / "checkpoint").glob("*.keras")
    model = keras.saving.load_model(path)
    return [array(variable) for variable in model.weights + model.optimizer.variables]


def test_the_folder_is_a_preset_with_its_story(finished_run, data):
    folder, _ = finished_run
    model = DMFormerClassifier.from_preset(folder)
    assert model.class_names == data[2]
    assert model.input.shape == (None, 32, 32, 1)
    assert all(layer.trainable for layer in model.layers)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert {"description", "class_names", "recipe", "metrics", "command"} <= set(metadata)
    assert Recipe(**metadata["recipe"]).epochs == 3
    assert metadata["command"] == "a command"
    assert metadata["description"] == "tiny trained on arrays"
    for name in ("curves.png", "confusion_matrix.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob(".*"))


def test_the_reported_figure_is_what_evaluate_repeats(finished_run, data):
    folder, evaluation = finished_run
    again = evaluate(load_classifier(folder), open_source(data, "val"))
    assert again.metrics() == evaluation.metrics()
    report = json.loads((folder / "report.json").read_text())
    assert report["validation"]["top1"] == evaluation.top1
    assert report["validation"]["confusion_matrix"] == evaluation.confusion.tolist()


def test_the_best_epoch_is_kept(finished_run):
    folder, evaluation = finished_run
    history = rows(folder)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    best = max(history, key=tasks.task_of(Recipe()).rank)
    assert evaluation.top1 == pytest.approx(best["val_top1"])
    metrics = json.loads((folder / "metadata.json").read_text())["metrics"]
    assert metrics["epoch"] == best["epoch"]


def test_the_learning_rate_ends_near_zero_and_the_loss_falls(finished_run):
    history = rows(finished_run[0])
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-8)
    assert history[-1]["loss"] < history[0]["loss"]


def interrupt_at(moment, patch):
    """Makes `train` stop as by Ctrl-C at a moment of its last, or of its second, epoch."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    batch_end, write_state = engine._EpochEnd.on_train_batch_end, checkpoint.write_state
    if moment == "in an epoch":

        def interrupted_batch(self, batch, logs=None):
            return interrupt() if self.epoch == 3 else batch_end(self, batch, logs)

        patch.setattr(engine._EpochEnd, "on_train_batch_end", interrupted_batch)
    elif moment == "before the checkpoint counts":

        def interrupted_write(folder, state):
            return interrupt() if state.epoch == 2 else write_state(folder, state)

        patch.setattr(checkpoint, "write_state", interrupted_write)
    else:
        patch.setattr(engine._Run, "_save_if_best", interrupt)


def test_a_run_that_was_killed_continues_as_if_it_had_not_been(
    stopped_run, finished_run, data, recipe, tiny_preset
):
    assert checkpoint.resumable_epoch(stopped_run) == 1
    evaluation = train(recipe, tiny_preset, data, stopped_run, resume=True, verbose=0)
    assert_same_run((stopped_run, evaluation), finished_run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["after the checkpoint", "in an epoch", "before the checkpoint counts"]
)
def test_an_interrupted_run_continues_as_if_it_had_not_been(
    moment, finished_run, data, recipe, tiny_preset, tmp_path
):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(moment, patch)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tiny_preset, data, folder, verbose=0)

    assert checkpoint.resumable_epoch(folder) == (2 if moment == "in an epoch" else 1)
    evaluation = train(recipe, tiny_preset, data, folder, resume=True, verbose=0)
    assert_same_run((folder, evaluation), finished_run)


def assert_same_run(run, expected_run):
    (folder, evaluation), (expected_folder, expected) = run, expected_run
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
    for one, other in zip(final_weights(folder), final_weights(expected_folder), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-4)
    states = [json.loads((run / "checkpoint" / "state.json").read_text()) for run in
              (folder, expected_folder)]  # fmt: skip
    assert states[0]["seeds"] == states[1]["seeds"]
    np.testing.assert_array_equal(evaluation.confusion, expected.confusion)


@pytest.fixture(scope="module")
def progressive_run(data, recipe, tiny_preset, tmp_path_factory):
    """(recipe, folder, Evaluation, what was asked of the pipeline) of images that grow."""
    recipe = dataclasses.replace(recipe, image_size=40, progressive_resizing=((32, 2),))
    folder = tmp_path_factory.mktemp("runs") / "progressive"
    asked = []
    with pytest.MonkeyPatch.context() as patch:

        def spied(source, recipe, image_size, first_step, *others, **options):
            asked.append((image_size, first_step))
            return batches(source, recipe, image_size, first_step, *others, **options)

        batches = engine.training_batches
        patch.setattr(engine, "training_batches", spied)
        evaluation = train(recipe, tiny_preset, data, folder, verbose=0)
    return recipe, folder, evaluation, asked


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_images_that_grow_train_the_model_of_the_last_size(progressive_run, data):
    _, folder, evaluation, asked = progressive_run
    steps = steps_per_epoch(open_source(data, "train"), progressive_run[0].batch_size)
    assert asked == [((32, 32), 0), ((40, 40), 2 * steps)]
    kept = load_classifier(folder)
    assert kept.input.shape == (None, 40, 40, 1)
    assert evaluate(kept, open_source(data, "val")).metrics() == evaluation.metrics()
    history = rows(folder)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    # Validated at the last size from the first epoch on, so that the best one is kept.
    best = max(history, key=tasks.task_of(Recipe()).rank)
    assert evaluation.loss == pytest.approx(best["val_loss"], rel=1e-5)


@pytest.mark.slow(on=["tensorflow", "jax"])
def test_a_model_may_be_for_larger_images_than_any_of_its_training(
    data, recipe, tiny_preset, tmp_path, capsys
):
    phases = ((32, recipe.epochs),)
    recipe = dataclasses.replace(recipe, image_size=40, progressive_resizing=phases, ema=0.9)
    evaluation = train(recipe, tiny_preset, data, tmp_path / "run", cache="memory", verbose=1)
    assert "32x32, for 40x40" in capsys.readouterr().out
    kept = load_classifier(tmp_path / "run")
    assert kept.input.shape == (None, 40, 40, 1)
    assert evaluate(kept, open_source(data, "val")).metrics() == evaluation.metrics()


@pytest.mark.slow
def test_images_that_grow_continue_after_an_interruption(
    progressive_run, data, tiny_preset, tmp_path
):
    recipe, expected, _, _ = progressive_run
    for moment, folder in (
        ("after the checkpoint", tmp_path / "first"),  # within the smaller images
        ("in an epoch", tmp_path / "last"),  # after them
    ):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(moment, patch)
            with pytest.raises(KeyboardInterrupt):
                train(recipe, tiny_preset, data, folder, verbose=0)
        train(recipe, tiny_preset, data, folder, resume=True, verbose=0)
        for one, other in zip(final_weights(folder), final_weights(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.once_under_torch
def test_resuming_a_finished_run_reports_again(finished_run, data, recipe, tiny_preset):
    folder, expected = finished_run
    again = train(recipe, tiny_preset, data, folder, resume=True, command="another", verbose=0)
    assert again.metrics() == expected.metrics()
    # How the run was made is still what it was begun by.
    assert json.loads((folder / "report.json").read_text())["command"] == "a command"
    assert json.loads((folder / "metadata.json").read_text())["command"] == "a command"


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_a_run_out_of_memory_is_resumed_with_gradient_checkpointing(
    stopped_run, finished_run, data, recipe, tiny_preset
):
    sparing = dataclasses.replace(recipe, gradient_checkpointing=(1, 2))
    train(sparing, tiny_preset, data, stopped_run, resume=True, verbose=0)
    for one, other in zip(final_weights(stopped_run), final_weights(finished_run[0]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3, rtol=1e-2)
    (path,) = (stopped_run / "checkpoint").glob("*.keras")
    stages = keras.saving.load_model(path).backbone.get_config()["gradient_checkpointing"]
    assert stages == (1, 2)
    assert load_classifier(stopped_run).backbone.get_config()["gradient_checkpointing"] == ()


@pytest.mark.slow(on=["tensorflow"])  # Keras takes its batches back to the CPU: not meant for it
def test_images_changed_on_the_device_train_the_same_model(
    finished_run, data, recipe, tiny_preset, tmp_path
):
    on_device = dataclasses.replace(recipe, augment_on_device=True)
    train(on_device, tiny_preset, data, tmp_path / "run", verbose=0)
    for row, expected in zip(rows(tmp_path / "run"), rows(finished_run[0]), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=2e-3)


@pytest.mark.once_under_torch
def test_what_cannot_be_held_on_the_device_is_refused_before_work(
    data, recipe, tiny_preset, tmp_path, monkeypatch
):
    on_device = dataclasses.replace(recipe, augment_on_device=True)
    monkeypatch.setattr(cache, "_memory", lambda: 1000)
    with pytest.raises(DMFormerError, match="GiB of memory"):
        train(on_device, tiny_preset, data, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.once_under_torch
def test_other_settings_are_not_resumed(finished_run, data, recipe, tiny_preset, tmp_path):
    folder, _ = finished_run
    before = (folder / "checkpoint" / "state.json").read_text()
    other_recipe = dataclasses.replace(recipe, epochs=5)
    with pytest.raises(DMFormerError, match=r"epochs \(3, now 5\)"):
        train(other_recipe, tiny_preset, data, folder, resume=True, verbose=0)
    images, labels, names = data
    with pytest.raises(DMFormerError, match="training images"):
        train(recipe, tiny_preset, (images[6:], labels[6:], names), folder, resume=True, verbose=0)
    with pytest.raises(DMFormerError, match="architecture"):
        train(recipe, "dmformer_n", data, folder, resume=True, verbose=0)
    other = tmp_path / "other"
    tiny_classifier(num_classes=4, input_shape=(64, 64, 3), **TO_TRAIN).save_to_preset(other)
    with pytest.raises(DMFormerError, match="weights"):
        train(recipe, other, data, folder, resume=True, verbose=0)
    assert (folder / "checkpoint" / "state.json").read_text() == before


@pytest.mark.once_under_torch
@pytest.mark.parametrize("column", ["val_top1", "val_loss", "seconds", "unknown"])
def test_a_history_that_lacks_a_figure_is_refused_before_work(
    finished_run, data, recipe, tiny_preset, tmp_path, column
):
    folder = shutil.copytree(finished_run[0], tmp_path / "run")
    path = folder / "checkpoint" / "state.json"
    state = json.loads(path.read_text())
    row = state["history"][1]
    if column in row:
        del row[column]
    else:
        row[column] = 1.0
        del row["val_top5"]
    path.write_text(json.dumps(state))
    with pytest.raises(DMFormerError, match=rf"state\.json' is damaged: '{column}' of epoch 2"):
        train(recipe, tiny_preset, data, folder, resume=True, verbose=0)


@pytest.mark.once_under_torch
def test_a_run_of_an_earlier_version_lacks_settings_and_is_resumed(
    finished_run, data, recipe, tiny_preset, tmp_path
):
    shutil.copytree(finished_run[0], tmp_path / "run")
    path = tmp_path / "run" / "checkpoint" / "state.json"
    state = json.loads(path.read_text())
    for later in ("augment_on_device", "validate_every"):
        del state["identity"]["recipe"][later]
    path.write_text(json.dumps(state))
    train(recipe, tiny_preset, data, tmp_path / "run", resume=True, verbose=0)
    del state["identity"]["recipe"]["epochs"]
    path.write_text(json.dumps(state))
    with pytest.raises(DMFormerError, match=r"epochs \(30, now 3\)"):
        train(recipe, tiny_preset, data, tmp_path / "run", resume=True, verbose=0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_an_epoch_may_be_a_part_of_a_pass_and_is_resumed(
    data, recipe, tiny_preset, tmp_path, copied_after, optimizer
):
    recipe = dataclasses.replace(recipe, images_per_epoch=32, optimizer=optimizer)
    with copied_after(1, tmp_path / "through", tmp_path / "cut"):
        expected = train(recipe, tiny_preset, data, tmp_path / "through", verbose=0)
    found = train(recipe, tiny_preset, data, tmp_path / "cut", resume=True, verbose=0)
    assert found.loss == pytest.approx(expected.loss, rel=1e-3)
    model = keras.saving.load_model(next((tmp_path / "cut" / "checkpoint").glob("*.keras")))
    assert int(array(model.optimizer.iterations)) == 3 * 2 // recipe.accumulate


@pytest.mark.once_under_torch
def test_images_are_verified_once_a_run(finished_run, data, recipe, tiny_preset, monkeypatch):
    asked = []

    def look(source, split, **options):
        asked.append((split, options["verify"]))
        return open_source(source, split, **options)

    monkeypatch.setattr(tasks, "open_source", look)
    train(recipe, tiny_preset, data, finished_run[0], resume=True, verbose=0)
    skipping = {"resume": True, "on_corrupt": "skip", "verbose": 0}
    train(recipe, tiny_preset, data, finished_run[0], **skipping)
    assert asked == [(split, verify) for verify in (False, True) for split in ("train", "val")]


@pytest.mark.once_under_torch
def test_damaged_images_of_both_splits_are_told_at_once(recipe, tiny_preset, tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        Image.new("L", (40, 40)).save(tmp_path / "data" / name)
        (tmp_path / "data" / name).with_name("empty.png").touch()
    (tmp_path / "data" / "train" / "a" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DMFormerError, match=r"5 image\(s\) of 9") as refused:
        train(recipe, tiny_preset, tmp_path / "data", tmp_path / "run", verbose=0)
    assert str(refused.value).count("pass on_corrupt") == 1

    # Held out of one folder, both splits see the file that is called otherwise.
    for number in range(30):
        Image.new("L", (40, 40)).save(tmp_path / "data" / "train" / "a" / f"{number}.png")
    with pytest.raises(DMFormerError, match=r"3 image\(s\) of 34"):
        train(recipe, tiny_preset, tmp_path / "data" / "train", tmp_path / "run", verbose=0)


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
@pytest.mark.parametrize("validate_every", [1, 2])
def test_a_callback_sees_the_validation_and_may_stop_the_training(
    validate_every, data, tiny_preset, tmp_path
):
    recipe = Recipe(
        epochs=4, batch_size=16, image_size=40, channels=1, progressive_resizing=((32, 2),),
        validate_every=validate_every,
    )  # fmt: skip
    seen = []

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))
            self.model.stop_training = True

    def stopped():
        folder = tmp_path / "run"
        return train(recipe, tiny_preset, data, folder, callbacks=[Stop()], verbose=0)

    if validate_every == 2:
        with pytest.raises(DMFormerError, match="before any validation"):
            stopped()
    else:
        assert stopped().top1 == pytest.approx(seen[0]["val_top1"])
    assert len(seen) == 1


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_a_head_for_the_same_classes_is_kept_and_another_named_new(
    finished_run, data, tmp_path, capsys
):
    images, labels, names = data
    once = Recipe(epochs=1, batch_size=16, image_size=32)
    for number, classes in enumerate((names, names[::-1])):
        train(once, finished_run[0], (images, labels, classes), tmp_path / str(number), verbose=2)
        assert ("from its weights and a new head" in capsys.readouterr().out) == bool(number)


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_a_folder_may_have_the_name_of_a_built_in_preset(
    data, recipe, tiny_preset, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    once = dataclasses.replace(recipe, epochs=1, accumulate=1)
    train(once, tiny_preset, data, "dmformer_n", verbose=0)
    assert (tmp_path / "dmformer_n" / "report.json").is_file()


@pytest.mark.once_under_torch
def test_a_folder_is_one_process_s(finished_run, data, recipe, tiny_preset):
    folder, _ = finished_run
    holds = (
        "import sys; from pathlib import Path; from dmformer_keras.system.files import FolderLock\n"
    )
    holds += f"lock = FolderLock(Path({str(folder)!r}))\n"
    holds += "lock.take(); print('taken', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"taken\n"
        with pytest.raises(DMFormerError, match="Another process"):
            train(recipe, tiny_preset, data, folder, resume=True, verbose=0)
        other.kill()  # which leaves nothing behind
        other.wait()
    train(recipe, tiny_preset, data, folder, resume=True, verbose=0)


@pytest.mark.once_under_torch
def test_the_learning_rate_is_scaled_to_the_images_that_there_are(
    data, tiny_preset, tmp_path, monkeypatch
):
    few = Recipe(epochs=1, batch_size=1024, base_batch_size=1024, image_size=32, channels=1,
                 learning_rate=0.01, warmup_epochs=0)  # fmt: skip
    rates = []

    class StopError(Exception):
        pass

    def look(self, batch, logs=None):
        rates.append(float(array(self.model.optimizer.learning_rate)))
        raise StopError

    monkeypatch.setattr(engine._EpochEnd, "on_train_batch_begin", look)
    with pytest.raises(StopError):
        train(few, tiny_preset, data, tmp_path / "run", verbose=0)
    images = len(open_source(data, "train"))
    assert rates == [pytest.approx(0.01 * images / 1024)]


@pytest.mark.once_under_torch
def test_a_folder_in_use_is_not_overwritten(finished_run, data, recipe, tiny_preset, tmp_path):
    with pytest.raises(DMFormerError, match="resume=True"):
        train(recipe, tiny_preset, data, finished_run[0], verbose=0)
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(DMFormerError, match="not empty"):
        train(recipe, tiny_preset, data, tmp_path, verbose=0)
    with pytest.raises(DMFormerError, match="cannot be made"):
        train(recipe, tiny_preset, data, tmp_path / "thesis.txt" / "run", verbose=0)
    with pytest.raises(DMFormerError, match="no run to resume"):
        train(recipe, tiny_preset, data, tmp_path / "new", resume=True, verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_a_frozen_backbone_stays_as_it_was(data, tiny_preset, tmp_path):
    recipe = Recipe(epochs=1, batch_size=16, image_size=32, channels=3, freeze_backbone=True,
                    stochastic_depth=0.2)  # fmt: skip
    train(recipe, tiny_preset, data, tmp_path / "run", verbose=0)
    before = DMFormerClassifier.from_preset(tiny_preset, load_weights=True)
    after = load_classifier(tmp_path / "run")
    for one, other in zip(before.backbone.weights, after.backbone.weights, strict=True):
        np.testing.assert_array_equal(array(one), array(other), err_msg=one.path)
    assert after.backbone.trainable
    # For a training of all that follows.
    assert after.backbone.get_config()["stochastic_depth"] == 0.2
    assert all(layer.trainable for layer in after.backbone.layers)
    with pytest.raises(DMFormerError, match="freeze"):
        train(recipe, "dmformer_n", data, tmp_path / "other", verbose=0)


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_mixed_precision_trains_and_is_kept(data, tiny_preset, tmp_path):
    recipe = Recipe(epochs=1, batch_size=16, image_size=32, precision="mixed_bfloat16")
    evaluation = train(recipe, tiny_preset, data, tmp_path / "run", verbose=0)
    assert np.isfinite(evaluation.loss)
    model = load_classifier(tmp_path / "run")
    assert model.backbone.dtype_policy.name == "mixed_bfloat16"
    assert {weight.dtype for weight in model.weights} == {"float32"}


@pytest.mark.slow(on=["tensorflow"])  # which traces for half a minute
def test_a_loss_that_is_not_finite_stops_the_run(data, tiny_preset, tmp_path):
    recipe = Recipe(
        epochs=2, batch_size=8, image_size=32, learning_rate=1e30, warmup_epochs=0, clip_norm=None
    )
    with pytest.raises(DMFormerError, match=r"loss became .* in epoch 1|not finite"):
        train(recipe, tiny_preset, data, tmp_path / "run", verbose=0)


@pytest.mark.once_under_torch
def test_rare_classes_weigh_more_and_an_image_1_on_average(data):
    images, labels, names = data
    kept = np.sort(np.concatenate([np.flatnonzero(labels != 0), np.flatnonzero(labels == 0)[:3]]))
    source = open_source((images[kept], labels[kept], names), "train")
    recipe = Recipe(class_weighting="median_frequency")
    loss, _ = tasks.task_of(recipe).objective(source)
    weights = np.array(loss.class_weights)
    counts = np.bincount(source.labels)
    np.testing.assert_allclose(weights * counts, (weights * counts)[0] * np.ones(len(names)))
    assert weights[source.labels].mean() == pytest.approx(1)
    assert counts[0] < counts[1]
    loss, _ = tasks.task_of(Recipe()).objective(source)
    assert loss.class_weights is None


@pytest.mark.once_under_torch
def test_one_class_is_no_classification(tmp_path):
    images, labels = np.zeros((20, 32, 32, 3), "uint8"), np.zeros(20, int)
    with pytest.raises(DMFormerError, match="one class"):
        train(Recipe(image_size=32), "dmformer_n", (images, labels), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.once_under_torch
def test_callbacks_know_which_way_their_figure_is_better():
    from dmformer_keras.training.run_checks import checked_callbacks

    given = [
        keras.callbacks.EarlyStopping("val_top1"),
        keras.callbacks.ModelCheckpoint("best.keras", monitor="val_miou", save_best_only=True),
        keras.callbacks.EarlyStopping("val_loss"),
        keras.callbacks.EarlyStopping("val_top1", mode="min"),
        keras.callbacks.TerminateOnNaN(),
    ]
    modes = [getattr(callback, "mode", None) for callback in checked_callbacks(given)]
    assert modes == ["max", "max", "min", "min", None]


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), "LearningRateScheduler would"),
        (keras.callbacks.ReduceLROnPlateau("val_top1"), "ReduceLROnPlateau would"),
        (print, "must be a list of keras.callbacks.Callback"),
    ],
)
def test_callbacks_that_cannot_work_are_refused_before_work(callback, message, tmp_path):
    with pytest.raises(DMFormerError, match=message):
        train(Recipe(epochs=1), "dmformer_n", "digits", tmp_path / "run", callbacks=[callback])
    assert not (tmp_path / "run").exists()
