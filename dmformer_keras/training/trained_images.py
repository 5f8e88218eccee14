"""Which images a run was trained on, to warn when a model is measured on them."""

import hashlib
import json

import numpy as np

from dmformer_keras.data.splits import DRAWS
from dmformer_keras.errors import DAMAGE, DMFormerError
from dmformer_keras.presets.folder import METADATA_FILE
from dmformer_keras.system.files import open_regular_file, written_whole
from dmformer_keras.training import checkpoint

IMAGES_FILE = "training_images.npy"
CONTENTS_FILE = "image_contents.npy"
_CONTENTS_LIMIT = 2**32
# How the first versions drew, whose runs do not record it.
_EARLY_DRAW = "position"


def record_images(folder, source):
    """Writes what tells a run's training images by their names."""
    if not _is_known(source):
        return
    with written_whole(_file(folder)) as path, open(path, "wb") as file:
        np.save(file, np.sort(_codes(source)), allow_pickle=False)


def record_contents(folder, sources):
    """Writes what tells whether a run's images are still what they were.

    Contents are read up to `_CONTENTS_LIMIT` bytes in all; images beyond are not compared.
    """
    rows, read = [], 0
    for source in filter(_is_known, sources):
        for code, index in zip(_codes(source), range(len(source)), strict=True):
            content, size = 0, 0
            if read < _CONTENTS_LIMIT:
                content, size = _content_code(source, index)
                read += size
            rows.append((code, _code(repr(source.stamp(index)).encode()), content))
    with written_whole(_file(folder, CONTENTS_FILE)) as path, open(path, "wb") as file:
        np.save(file, np.array(rows, np.uint64).reshape(-1, 3), allow_pickle=False)


def changed_images(folder, sources):
    """The images of a run whose pixels are others than when it was begun: a list of str, their
    names; empty where the run kept no record.

    Sizes and times are compared first, contents where those differ.
    """
    rows = _content_rows(folder)
    if rows is None:
        return []
    known = {int(code): (int(stamp), int(content)) for code, stamp, content in rows}
    changed = []
    for source in filter(_is_known, sources):
        for code, index in zip(_codes(source), range(len(source)), strict=True):
            stamp, content = known.get(int(code), (None, 0))
            if stamp in (None, _code(repr(source.stamp(index)).encode())) or not content:
                continue
            if _content_code(source, index)[0] != content:
                changed.append(source.name(index))
    return changed


def draw_of(identity):
    """How the validation images of a run were drawn: a str, one of
    `dmformer_keras.data.splits.DRAWS`.
    """
    if identity is None:
        return "name"
    return identity.get("data", {}).get("draw", _EARLY_DRAW)


def draw_of_run(folder):
    """How the validation images of the run in a folder, or of a packaged one, were drawn: a str,
    see `draw_of`.
    """
    try:
        return draw_of(checkpoint.read_state(folder).identity)
    except DMFormerError:
        return _draw_of_preset(folder)


def _draw_of_preset(folder):
    """What `package` has written of the run; the draw of a new run where it has not."""
    try:
        draw = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8")).get("draw")
    except (OSError, ValueError, AttributeError):
        draw = None
    return draw if draw in DRAWS else draw_of(None)


def count_trained_on(folder, source):
    """How many images of a source a run was trained on; None where that is not known.

    An image is known by its name or, where the run has none of that name, by its content.
    """
    try:
        with open_regular_file(_file(folder)) as file:
            known = np.load(file, allow_pickle=False)
    except DAMAGE:
        return None
    if not _is_known(source):
        return None
    codes = _codes(source)
    return int(np.isin(codes, known).sum()) + _count_renamed(folder, source, codes, known)


def _count_renamed(folder, source, codes, names):
    """How many images of names that are new to a run have the content of its training images."""
    rows = _content_rows(folder)
    if rows is None:
        return 0
    contents = set(rows[np.isin(rows[:, 0], names), 2].tolist()) - {0}
    count = read = 0
    for index in np.flatnonzero(~np.isin(codes, rows[:, 0])):
        if read >= _CONTENTS_LIMIT:
            break
        content, size = _content_code(source, int(index))
        read += size
        count += content in contents
    return count


def _content_rows(folder):
    try:
        with open_regular_file(_file(folder, CONTENTS_FILE)) as file:
            return np.load(file, allow_pickle=False).reshape(-1, 3)
    except DAMAGE:
        return None


def trained_on_warning(folder, source):
    """A sentence where images of a source were trained on; "" otherwise."""
    count = count_trained_on(folder, source)
    if not count or source.split in ("train", "all"):
        return ""
    return (
        f"{count:,} of these {len(source):,} images were trained on, so the figures are too good: "
        "files were moved, or others split the data; measure on images of a test/ folder."
    )


def _is_known(source):
    """Whether images have names and can be read alone: those of a stream do not."""
    return source.labels is not None or hasattr(source, "pixel_counts")


def _content_code(source, index):
    contents = source.contents(index)
    return _code(contents), len(contents)


def _code(content):
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _file(folder, name=IMAGES_FILE):
    return folder / checkpoint.CHECKPOINT_FOLDER / name


def _codes(source):
    """A number for each image's name, uint64."""
    names = (source.name(index).encode("utf-8", "surrogateescape") for index in range(len(source)))
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return np.frombuffer(digests, np.uint64)
