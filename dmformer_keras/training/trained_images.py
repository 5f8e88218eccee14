"""Which images a run was trained on, so that a measurement on them is told from an honest one."""

import hashlib

import numpy as np

from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.files import written_whole
from dmformer_keras.training import checkpoint

IMAGES_FILE = "training_images.npy"
# What the first versions drew by, whose runs do not say so.
_EARLY_DRAW = "position"


def record_images(folder, source):
    """Writes what tells a run's training images by their names.

    Args:
        folder: Path of the run.
        source: ImageSource, the training images.
    """
    if source.labels is None and not hasattr(source, "pixel_counts"):
        return  # streamed: not known by name
    with written_whole(_file(folder)) as path, open(path, "wb") as file:
        np.save(file, np.sort(_codes(source)), allow_pickle=False)


def draw_of(identity):
    """How the validation images of a run were drawn.

    Args:
        identity: dict, of `identity_of`, or None for a run that begins.

    Returns:
        str, one of `dmformer_keras.data.splits.DRAWS`.
    """
    if identity is None:
        return "name"
    return identity.get("data", {}).get("draw", _EARLY_DRAW)


def draw_of_run(folder):
    """How the validation images of the run in a folder were drawn.

    Args:
        folder: Path; where it holds no run, the draw of a new one is meant.

    Returns:
        str, see `draw_of`.
    """
    try:
        return draw_of(checkpoint.read_state(folder).identity)
    except DMFormerError:
        return draw_of(None)


def count_trained_on(folder, source):
    """How many images of a source a run was trained on.

    Args:
        folder: Path of the run.
        source: ImageSource.

    Returns:
        int; None where that is not known.
    """
    try:
        with open(_file(folder), "rb") as file:
            known = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if source.labels is None and not hasattr(source, "pixel_counts"):
        return None
    return int(np.isin(_codes(source), known).sum())


def trained_on_warning(folder, source):
    """What to say where images of a source were trained on.

    Args:
        folder: Path of the run.
        source: ImageSource that is to be measured on.

    Returns:
        str, a sentence; "" where there is nothing to say.
    """
    count = count_trained_on(folder, source)
    if not count or source.split in ("train", "all"):
        return ""
    return (
        f"{count:,} of these {len(source):,} images were trained on, so the figures are too good: "
        "files were moved, or others split the data; measure on images of a test/ folder."
    )


def _file(folder):
    return folder / checkpoint.CHECKPOINT_FOLDER / IMAGES_FILE


def _codes(source):
    """A number for each image's name, uint64."""
    names = (source.name(index).encode("utf-8", "surrogateescape") for index in range(len(source)))
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return np.frombuffer(digests, np.uint64)
