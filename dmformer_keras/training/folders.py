"""The folder that a run is written to: free, or refused in a sentence."""

import os

from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import checkpoint


def check_is_free(folder):
    """Checks that a new run may be written to a folder."""
    if folder.is_dir() and any(folder.iterdir()) and not checkpoint.is_untouched(folder):
        hint = "choose another folder"
        if checkpoint.resumable_epoch(folder) is not None:
            hint = "continue the run in it with resume=True, or choose another folder"
        raise DMFormerError(f"The output folder {str(folder)!r} is not empty; {hint}.")
    parent = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise _unwritable(folder, f"{str(parent)!r} is no folder that can be written to")


def make_folder(folder):
    """Makes a folder for a run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error


def _unwritable(folder, reason):
    return DMFormerError(
        f"The output folder {str(folder)!r} cannot be made: {reason}; choose another."
    )
