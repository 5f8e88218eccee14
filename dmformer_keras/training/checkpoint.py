"""The state of an unfinished run: what `--resume` continues from.

`state.json` is what counts: it names the file of the last finished epoch's weights, and
is renamed into place after that file. An interruption at any moment leaves the previous
state and its file.
"""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np

from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.system.files import WRITING, read_regular_text, stored_bytes, written_whole

CHECKPOINT_FOLDER = "checkpoint"
STATE_FILE = "state.json"


@dataclasses.dataclass
class RunState:
    """How far a run has come.

    Args:
        identity: dict of JSON values, what must be the same when the run is resumed.
        history: list of dicts, one a finished epoch.
        weights_file: str, the file of the last finished epoch, None before the first.
        seeds: list of lists of ints, the states of the model's random generators, which
            Keras does not save.
        begun: dict of JSON values, what the run was begun by: "command", "preset", and
            "earlier", the trainings that the preset's weights came from.
    """

    identity: dict
    history: list = dataclasses.field(default_factory=list)
    weights_file: str | None = None
    seeds: list = dataclasses.field(default_factory=list)
    begun: dict = dataclasses.field(default_factory=dict)

    @property
    def epoch(self):
        """The number of finished epochs."""
        return len(self.history)


def read_state(folder):
    """Reads the state of a run.

    Args:
        folder: Path of the run.

    Returns:
        RunState.

    Raises:
        DMFormerError: there is none, or it is damaged.
    """
    path = folder / CHECKPOINT_FOLDER / STATE_FILE
    try:
        return RunState(**json.loads(read_regular_text(path)))
    except (FileNotFoundError, NotADirectoryError):
        raise DMFormerError(
            f"There is no run to resume in {str(folder)!r}; leave out resume to start one, or "
            "give the folder of the interrupted run."
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise DMFormerError(
            f"{path} cannot be read ({error}); start the run again in another folder."
        ) from error


def is_untouched(folder):
    """Tells whether a run was begun in a folder and ended before it had written anything.

    Args:
        folder: Path of the run.

    Returns:
        bool, True for an empty folder, False for one that is not there.
    """
    if not folder.is_dir():
        return False
    files = [path for path in folder.rglob("*") if path.is_file()]
    return set(folder.iterdir()) <= {folder / CHECKPOINT_FOLDER} and all(
        path.name.startswith(WRITING) for path in files
    )


def write_state(folder, state):
    """Writes the state of a run, and removes the weights of the epochs before.

    Args:
        folder: Path of the run.
        state: RunState.
    """
    folder = folder / CHECKPOINT_FOLDER
    with written_whole(folder / STATE_FILE) as path:
        path.write_text(json.dumps(dataclasses.asdict(state)) + "\n", encoding="utf-8")
    for stale in folder.glob("epoch_*.keras"):
        if stale.name != state.weights_file:
            stale.unlink()


def save_epoch(folder, state, model):
    """Saves a model and its optimizer as the last finished epoch of a run.

    Args:
        folder: Path of the run.
        state: RunState, its history with that epoch; changed to name the new file.
        model: compiled `keras.Model`.
    """
    state.weights_file = f"epoch_{state.epoch:04d}.keras"
    state.seeds = [np.asarray(seed.value).tolist() for seed in _seed_states(model)]
    path = folder / CHECKPOINT_FOLDER / state.weights_file
    with written_whole(path, checkpoint_bytes(model)) as beside:
        model.save(beside)
    write_state(folder, state)


def checkpoint_bytes(model):
    """About how many bytes the file of an epoch has.

    Args:
        model: compiled `keras.Model`.
    """
    return stored_bytes([*model.variables, *model.optimizer.variables])


def restore_epoch(folder, state, model):
    """Loads the last finished epoch into a model that was built and compiled alike.

    Args:
        folder: Path of the run.
        state: RunState, of one epoch or more.
        model: compiled `keras.Model`, its optimizer built.

    Raises:
        DMFormerError: the file is missing, damaged, or of another model.
    """
    import keras  # not above: states are read before Keras is started, too

    path = folder / CHECKPOINT_FOLDER / state.weights_file
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DMFormerError(
            f"The checkpoint {path} cannot be loaded ({shortened(error)}); start the run again "
            "in another folder."
        ) from error
    for variable, seed in zip(_seed_states(model), state.seeds, strict=True):
        variable.assign(keras.ops.convert_to_tensor(seed, dtype=variable.dtype))


def resumable_epoch(folder):
    """The number of finished epochs of a run, or None where there is no run.

    Args:
        folder: str or path.

    Returns:
        int or None.
    """
    try:
        return read_state(Path(folder)).epoch
    except DMFormerError:
        return None


def _seed_states(model):
    return [variable for variable in model.variables if variable.name == "seed_generator_state"]
