"""Which images are for training, which for validation: the rules every source shares."""

import re

import numpy as np

from dmformer_keras.errors import DMFormerError

SPLITS = ("train", "val", "test", "all")

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
    """The split that a folder, or a part of a data set, is called by.

    Args:
        name: str, such as "train", "Validation", "training_set", "seg_test" or "val2017".

    Returns:
        "train", "val" or "test", or None for any other name.

    Example:

    >>> [split_of_name(name) for name in ("Training", "dev", "test_set", "val2017", "trains")]
    ['train', 'val', 'test', 'val', None]
    """
    match = _SPLIT_NAME.fullmatch(name.lower())
    return match and _SPLIT_OF_WORD[match[1]]


def stored_split(title, split, stored):
    """Find where the images of a split are to be taken from.

    Args:
        title: str, the source, for an error.
        split: str, the split asked for, one of `SPLITS`.
        stored: collection of str, the splits that the source keeps apart; "all" for a
            source that keeps none.

    Returns:
        (str, bool): one of `stored`, and whether only a part of it is meant because
        training and validation images lie together there.

    Raises:
        DMFormerError: the source has no such split.

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


def carve(title, split, labels, validation_fraction, seed):
    """The images of "train" or "val" where both lie together.

    Validation gets the same share of every class, always the same images for a seed; a
    class of one image keeps it for training.

    Args:
        title: str, the source, for an error.
        split: "train" or "val".
        labels: int array (number of images,), of train and val together.
        validation_fraction: float in [0, 1), the share of every class that is "val".
        seed: int, not negative.

    Returns:
        int array, the indexes of the images, ascending.

    Raises:
        DMFormerError: there would be none.

    Example:

    >>> labels = np.repeat([0, 1], 20)
    >>> labels[carve("cats", "val", labels, 0.1, seed=0)].tolist()
    [0, 0, 1, 1]
    """
    labels = np.asarray(labels)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels) if validation_fraction else ():
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(validation_fraction * len(members))), len(members) - 1)
        held_out[np.random.default_rng([seed, int(label)]).permutation(members)[:count]] = True
    indexes = np.flatnonzero(held_out if split == "val" else ~held_out)
    if not len(indexes):
        raise DMFormerError(
            f"{title} has no image for its {split!r} split with validation_fraction="
            f"{validation_fraction}; give a fraction over 0 and a class of two or more images."
        )
    return indexes
