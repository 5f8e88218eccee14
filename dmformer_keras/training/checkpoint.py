"""The state of an unfinished run: what `--resume` continues from.

`state.json` names the file with the weights of the last finished epoch, and is renamed into place
after that file. So an interruption at any moment leaves the previous state and its file.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from dmformer_keras.errors import DAMAGE, DMFormerError, shortened
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
    """Reads the state of a run."""
    path = folder / CHECKPOINT_FOLDER / STATE_FILE
    try:
        state = RunState(**json.loads(read_regular_text(path)))
        _check_kinds(state)
        return state
    except (FileNotFoundError, NotADirectoryError):
        raise DMFormerError(
            f"There is no run to resume in {str(folder)!r}; leave out resume=True to start one, or "
            "give the folder of the interrupted run."
        ) from None
    except DAMAGE as error:
        raise DMFormerError(
            f"{path} cannot be read ({shortened(error, 150)}); start the run again in another "
            "folder."
        ) from error


def _check_kinds(state):
    """Raises a ValueError if a state holds something that this package does not write."""
    name = state.weights_file
    expected = {
        "identity": isinstance(state.identity, dict)
        and all(isinstance(part, dict) for part in state.identity.values()),
        "history": isinstance(state.history, list)
        and all(isinstance(row, dict) for row in state.history)
        and [row.get("epoch") for row in state.history] == [*range(1, len(state.history) + 1)]
        and all(isinstance(one, int | float) for row in state.history for one in row.values()),
        "weights_file": name is None or (isinstance(name, str) and Path(name).name == name),
        "seeds": isinstance(state.seeds, list),
        "begun": isinstance(state.begun, dict) and isinstance(state.begun.get("earlier", []), list),
    }
    wrong = [part for part, is_right in expected.items() if not is_right]
    if wrong:
        raise ValueError(f"{wrong[0]} is of another kind")


def is_untouched(folder):
    """Tells whether a run was begun in a folder and ended before it had written anything; returns a
    bool, True for an empty folder, False for one that is not there.
    """
    if not folder.is_dir():
        return False
    if not set(folder.iterdir()) <= {folder / CHECKPOINT_FOLDER}:
        return False  # before all files of a large folder are listed
    files = [path for path in folder.rglob("*") if path.is_file()]
    return all(path.name.startswith(WRITING) for path in files)


def write_state(folder, state):
    """Writes the state of a run, and removes the weights of the epochs before."""
    folder = folder / CHECKPOINT_FOLDER
    with written_whole(folder / STATE_FILE) as path:
        path.write_text(json.dumps(dataclasses.asdict(state)) + "\n", encoding="utf-8")
    for stale in folder.glob("epoch_*.keras"):
        if stale.name != state.weights_file:
            stale.unlink()


def save_epoch(folder, state, model):
    """Saves a model and its optimizer as the last finished epoch of a run."""
    state.weights_file = f"epoch_{state.epoch:04d}.keras"
    state.seeds = [np.asarray(seed.value).tolist() for seed in _seed_states(model)]
    path = folder / CHECKPOINT_FOLDER / state.weights_file
    with written_whole(path, checkpoint_bytes(model)) as beside:
        model.save(beside)
    write_state(folder, state)


def checkpoint_bytes(model):
    """About how many bytes the file of an epoch has."""
    return stored_bytes([*model.variables, *model.optimizer.variables])


def restore_epoch(folder, state, model):
    """Loads the last finished epoch into a model that was built and compiled in the same way."""
    import keras  # not above, because states are also read before Keras is imported

    path = folder / CHECKPOINT_FOLDER / state.weights_file
    try:
        model.load_weights(path)
        for variable, seed in zip(_seed_states(model), state.seeds, strict=True):
            variable.assign(keras.ops.convert_to_tensor(seed, dtype=variable.dtype))
    except DAMAGE as error:
        raise DMFormerError(
            f"The checkpoint {path} cannot be loaded ({shortened(error, 150)}); start the run "
            "again in another folder."
        ) from error


def resumable_epoch(folder):
    """The number of finished epochs of a run, or None where there is no run."""
    try:
        return read_state(Path(folder)).epoch
    except DMFormerError:
        return None


def _seed_states(model):
    return [variable for variable in model.variables if variable.name == "seed_generator_state"]
