"""Which images are for training and which for validation: the rules for every source."""

import hashlib
import re
import unicodedata

import numpy as np

from dmformer_keras.errors import DMFormerError

SPLITS = ("train", "val", "test", "all")
# How validation images are drawn from files that lie together. By name, each file's part
# depends on its own name only; by position, as runs of early versions did, on all files.
DRAWS = ("name", "position")

_SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT_NAME = re.compile(
    rf"(?:(?:seg|images?|imgs?|data(?:set)?)[_\- ]?)?({'|'.join(_SPLIT_OF_WORD)})"
    r"(?:[_\- ]?(?:set|data|dataset|split|images?|imgs?))?(?:[_\- ]?(?:20)?\d\d?)?",
    re.ASCII,
)


def split_of_name(name):
    """The split that a folder, or a part of a data set, is called by: "train", "val" or "test", or
    None for any other name.

    Example:

    >>> [split_of_name(name) for name in ("Training", "dev", "test_set", "val2017", "trains")]
    ['train', 'val', 'test', 'val', None]
    """
    match = _SPLIT_NAME.fullmatch(name.lower())
    return match and _SPLIT_OF_WORD[match[1]]


def stored_split(title, split, stored):
    """Find where the images of a split are to be taken from; returns (str, bool): one of `stored`,
    and whether only a part of it is meant because training and validation images lie together
    there.

    Example:

    >>> stored_split("cats", "val", ["train", "test"])
    ('train', True)
    """
    together = next((name for name in ("train", "all") if name in stored), None)
    if split in stored:
        return split, split == "train" and "val" not in stored
    if split in ("train", "val") and together:
        return together, True
    available = [
        name for name in SPLITS if name in stored or (together and name in ("train", "val"))
    ]
    raise DMFormerError(
        f"{title} has no {split!r} split; choose one of those it has: {', '.join(available)}."
    )


def carve(title, split, labels, validation_fraction, seed, names=None):
    """The images of "train" or "val" where both lie together: an int array, the indexes of the
    images, ascending.

    With names, an image is for validation where a hash of its name says so: images that are added
    or removed move no other, but for the last one of a class. Without, validation gets the same
    share of every class. Either way a class of two or more images has one of each part, and a class
    of one image keeps it for training.

    Example:

    >>> labels = np.repeat([0, 1], 20)
    >>> labels[carve("cats", "val", labels, 0.1, seed=0)].tolist()
    [0, 0, 1, 1]
    """
    labels = np.asarray(labels)
    held_out = np.zeros(len(labels), bool)
    for members in _by_label(labels) if validation_fraction else ():
        if names is None:
            order = np.random.default_rng([seed, int(labels[members[0]])]).permutation(members)
            count = round(validation_fraction * len(members))
        else:
            places = np.array([_place(names[index], seed) for index in members])
            order, count = members[places.argsort()], (places < validation_fraction).sum()
        held_out[order[: min(max(1, count), len(members) - 1)]] = True
    indexes = np.flatnonzero(held_out if split == "val" else ~held_out)
    if not len(indexes):
        raise DMFormerError(
            f"{title} has no image for its {split!r} split with validation_fraction="
            f"{validation_fraction}; give a fraction over 0 and a class of two or more images."
        )
    return indexes


def _by_label(labels):
    """The indexes of each label, ascending; in one pass, for there may be thousands of labels."""
    order = np.argsort(labels, kind="stable")
    if not len(order):
        return []
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _place(name, seed):
    """A number in [0, 1) that a file's name decides, written in Unicode's one way or the other."""
    name = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(b"%d\0%s" % (seed, name), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
