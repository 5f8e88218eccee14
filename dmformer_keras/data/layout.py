"""What the folders of a data set mean: which are wrappers, splits, classes, images, masks."""

from dmformer_keras.data.splits import split_of_name
from dmformer_keras.data.trees import CLASSES_FILE, quoted
from dmformer_keras.errors import DMFormerError

EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
)  # fmt: skip
# What data sets call the folders of images and of masks, in capitals or not.
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "annotations", "annotation", "labels", "label")

_SHOWN = 3


def is_image_name(path):
    """Whether a file is an image by its name."""
    return path.lower().endswith(EXTENSIONS)


def without_wrappers(tree):
    """Go down through folders that only hold the data set: photos/ around cat/ and dog/; returns
    FileTree of the same kind.

    A wrapper is the only folder of its level, whatever loose files lie beside it; it holds folders,
    and is no split.
    """
    while (wrapper := _wrapper(tree)) is not None:
        tree = tree.below(wrapper + "/")
    return tree


def split_prefixes(tree, under=""):
    """Find the folders of the splits; returns a dict {split: prefix of its paths}; {"all": under}
    where there are no split folders.
    """
    tops = tree.child_folders(under)
    named = {}
    for folder in tops:
        split = split_of_name(folder)
        if split:
            named.setdefault(split, []).append(folder)
    count = sum(map(len, named.values()))
    # One such name among others is a class: cars, buses and a train.
    if not named or (count < len(tops) and len(named) == 1):
        return {"all": under}
    for split, folders in named.items():
        if len(folders) > 1:
            raise DMFormerError(
                f"{tree.title} has two folders for the {split!r} split, "
                f"{quoted(under + folders[0])} and {quoted(under + folders[1])}; keep one."
            )
    return {split: _innermost(tree, f"{under}{folders[0]}/") for split, folders in named.items()}


def check_no_unknown_splits(tree, expected):
    """Refuse folders that hold the same folders, and a split beside something that is none."""
    tops = tree.child_folders()
    if len(tops) < 2:
        return
    inner = [set(tree.child_folders(f"{top}/")) for top in tops]
    has_images = [any(map(is_image_name, tree.child_files(f"{top}/"))) for top in tops]
    if all(inner) and not any(has_images):
        _check_are_different(tree, tops, inner, expected)
    for top, folders, holds_images in zip(tops, inner, has_images, strict=True):
        if split_of_name(top) and len(folders) > 1 and not holds_images:
            raise DMFormerError(
                f"The folder {quoted(top, 40)} of {tree.title} has the name of a split and holds "
                f"{listed(folders)}, but lies beside {listed(set(tops) - {top})}; move that away"
                + (f", or list all in a {CLASSES_FILE} if they are classes." if expected else ".")
            )


def _check_are_different(tree, tops, inner, expected):
    """Refuses folders that all hold the same folders."""
    most = max(inner, key=len)
    if not all(folders == most or (len(folders) > 1 and folders <= most) for folders in inner):
        return
    if all(map(split_of_name, most)):
        raise DMFormerError(
            f"{tree.title} holds the splits inside its {expected}: {quoted(tops[0], 40)} has "
            f"{listed(most)}; put the splits outside, for example train/{tops[0][:40]!s}."
        )
    raise DMFormerError(
        f"The folders {listed(tops)} of {tree.title} hold the same folders ({listed(most)}), as "
        "splits do; call them train, val and test"
        + (f", or list them in a {CLASSES_FILE} if they are classes." if expected else ".")
    )


def find_folder(tree, prefix, names):
    """The folder directly under a prefix that has one of some names: a str, a path that ends in
    "/", or None.
    """
    folders = {folder.lower(): folder for folder in tree.child_folders(prefix)}
    return next((f"{prefix}{folders[name]}/" for name in names if name in folders), None)


def listed(names):
    """Some names for an error, the first of them.

    Example:

    >>> listed(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    names = sorted(names)
    shown = ", ".join(quoted(name, 40) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _wrapper(tree):
    tops = tree.child_folders()
    if len(tops) != 1:
        return None
    top = tops[0]
    inner = tree.child_folders(f"{top}/")
    if split_of_name(top):
        around_splits = len({split_of_name(folder) for folder in inner} - {None}) > 1
        return top if around_splits else None
    # A class of its own images, which has one folder of more, is no wrapper.
    holds_images = any(map(is_image_name, tree.child_files(f"{top}/")))
    return top if len(inner) > (1 if holds_images else 0) else None


def _innermost(tree, prefix):
    """The prefix of a split that some archives wrap in itself: seg_train/seg_train/."""
    while True:
        inner = tree.child_folders(prefix)
        split = split_of_name(prefix[:-1].rpartition("/")[2])
        if len(inner) != 1 or split_of_name(inner[0]) != split:
            return prefix
        prefix += inner[0] + "/"
