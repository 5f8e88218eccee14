"""A small run to look at: striped images, a tiny model, two epochs."""

import contextlib
import shutil

import numpy as np
import pytest
from helpers import TO_TRAIN, tiny_classifier

from dmformer_keras.training import Recipe, checkpoint, train

RECIPE = Recipe(
    epochs=3,
    batch_size=16,
    image_size=32,
    learning_rate=3e-3,
    augmentation="light",
    dropout=0.2,
    stochastic_depth=0.2,
    weight_decay=0.01,
    accumulate=2,
    ema=0.5,
    mixup=0.2,
    cutmix=0.5,
    seed=3,
)


def striped_images(number=72, classes=6, seed=0):
    """(images, labels, names): grey images whose stripes are as wide as their class says."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    columns = np.arange(32)
    stripes = np.stack([(columns // (label + 1)) % 2 for label in labels])
    images = 60 + 120 * stripes[:, None, :, None] + rng.uniform(0, 60, (number, 32, 32, 1))
    return images.astype("uint8"), labels, [f"stripes {label + 1}" for label in range(classes)]


@pytest.fixture(scope="session")
def data():
    return striped_images()


@pytest.fixture(scope="session")
def recipe():
    return RECIPE


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory):
    """A folder with a tiny classifier of another number of classes, with weights."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    tiny_classifier(num_classes=4, input_shape=(64, 64, 3), **TO_TRAIN).save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def finished_run(data, recipe, tiny_preset, tmp_path_factory):
    """(folder, Evaluation) of a run that went through."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with copied_after_epoch(1, folder, folder.with_name("stopped")):
        return folder, train(recipe, tiny_preset, data, folder, command="a command", verbose=0)


@pytest.fixture
def stopped_run(finished_run, tmp_path):
    """The folder of the same run as it was after its first epoch."""
    folder, _ = finished_run
    return shutil.copytree(folder.with_name("stopped"), tmp_path / "stopped")


@contextlib.contextmanager
def copied_after_epoch(epoch, folder, copy):
    """A block in which the folder of a run is copied once an epoch counts: what a kill leaves."""
    write_state = checkpoint.write_state

    def copied(state_folder, state):
        write_state(state_folder, state)
        if state.epoch == epoch:
            shutil.copytree(folder, copy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_state", copied)
        yield
    assert copy.is_dir()


@pytest.fixture(scope="session")
def copied_after():
    """`copied_after_epoch`, which makes such a block."""
    return copied_after_epoch
