"""Images in a folder of class folders, or in a zip of one, read in place."""

import contextlib
import os

from dmformer_keras.data.image_source import EncodedSource, refuse_layout
from dmformer_keras.data.images import check_file_channels
from dmformer_keras.data.layout import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    check_no_unknown_splits,
    find_folder,
    is_image_name,
    listed,
    split_prefixes,
    without_wrappers,
)
from dmformer_keras.data.other_files import HEAD_BYTES, problem_of_unknown_name
from dmformer_keras.data.splits import carve, stored_split
from dmformer_keras.data.trees import (
    CLASSES_FILE,
    DirectoryTree,
    check_class_names,
    check_no_twins,
    open_tree,
    quoted,
)
from dmformer_keras.errors import DMFormerError

LAYOUT = (
    "a folder for every class with its images inside, CLASS/IMAGE, "
    "optionally under train/, val/ and test/"
)

_CLASSES_FILE_LIMIT = 2**22


def open_folder(path, split, *, channels, on_corrupt, verify, validation_fraction, seed, draw):
    """Open a folder of class folders, or a zip of one."""
    source, problems = list_folder(
        path,
        split,
        channels=channels,
        validation_fraction=validation_fraction,
        seed=seed,
        draw=draw,
    )
    return source.verified(on_corrupt, fully=verify, problems=problems)


def list_folder(path, split, *, channels, validation_fraction, seed, draw):
    """Lists a folder of class folders, or a zip of one, without looking into an image; returns
    EncodedSource, not verified; and list of (path, reason), of images that are not read.
    """
    check_file_channels(channels)
    tree = without_wrappers(open_tree(path, LAYOUT))
    prefixes = split_prefixes(tree)
    stored, carved = stored_split(tree.title, split, prefixes)
    complaints = []
    class_folders, class_names = _classes(tree, prefixes, stored, complaints)
    prefix = prefixes[stored]
    by_folder, others = _files_by_class(tree, prefix)
    problems, passed_over = sort_others(tree, others)
    with _collected(complaints):
        _check_none_is_empty(tree, prefix, by_folder, problems)
    labels, paths = _in_order_of_classes(by_folder, class_folders)
    with _collected(complaints):
        passed_over += _beside_the_classes(tree, prefix, len(paths))
    if complaints:
        refuse_layout(tree.title, complaints)
    if carved:
        names = [path[len(prefix) :] for path in paths] if draw == "name" else None
        chosen = carve(tree.title, split, labels, validation_fraction, seed, names)
        paths, labels = [paths[index] for index in chosen], [labels[index] for index in chosen]
    source = EncodedSource(
        str(path),
        split,
        class_names,
        labels,
        channels,
        passed_over,
        keys=paths,
        names=paths,
        fetch=tree.read,
        stamp=tree.stamp,
    )
    return source, problems


def images_below(folder):
    """The images in a folder at any depth, by the rules of `open_source`: a list of str, paths; and
    list of (path, reason), of files that cannot be read as images.
    """
    tree = DirectoryTree(folder)
    others = [path for path in tree.files if not is_image_name(path)]
    problems, _ = sort_others(tree, others)
    images = [path for path in tree.files if is_image_name(path)]
    return [os.path.join(folder, path) for path in images], problems


def sort_others(tree, paths):
    """What the files are that are no images by their names: two lists of (path, reason): of images
    that cannot be read or that are called otherwise, and of files that are none and may be passed
    over.
    """
    problems, passed_over = [], []
    for path in paths:
        problem = problem_of_unknown_name(path, lambda path=path: tree.head(path, HEAD_BYTES))
        if problem is None:
            passed_over.append((path, f"{quoted(path)} is no image by its name."))
        else:
            problems.append((path, problem))
    return problems, passed_over


@contextlib.contextmanager
def _collected(complaints):
    """Collects the errors of the block, to report all of them together."""
    try:
        yield
    except DMFormerError as error:
        complaints.append(str(error))


def _classes(tree, prefixes, stored, complaints):
    """The class folders and the class names, by index; adds to a list of complaints."""
    reference = "train" if "train" in prefixes else stored
    prefix = prefixes[reference]
    present = tree.child_folders(prefix)
    if not present:
        raise DMFormerError(f"{tree.title} has no class folders; give {LAYOUT}.")
    if find_folder(tree, prefix, IMAGE_FOLDERS) and find_folder(tree, prefix, MASK_FOLDERS):
        raise DMFormerError(
            f"{tree.title} holds {listed(present)}, which is data for segmentation; "
            f"open it with task='segment', or for classification give {LAYOUT}."
        )
    if CLASSES_FILE in tree.files:
        folders, names = _read_classes_file(tree)
        missing = sorted(set(folders) - set(present))
        if missing and reference in ("train", "all"):
            complaints.append(
                f"{tree.title} has no folder {_first(prefix, missing)}, which its {CLASSES_FILE} "
                "names; add it or remove the line."
            )
    else:
        if reference == "all":
            check_no_unknown_splits(tree, "class folders")
        folders = names = present
    with _collected(complaints):
        check_class_names(names, tree.title)
        check_no_twins(names, tree.title, may_repeat=CLASSES_FILE in tree.files)
    for one in dict.fromkeys((prefix, prefixes[stored])):
        with _collected(complaints):
            _check_known(tree, one, tree.child_folders(one), folders)
    return folders, names


def _check_known(tree, prefix, present, folders):
    unknown = sorted(set(present) - set(folders))
    if unknown:
        where = CLASSES_FILE if CLASSES_FILE in tree.files else "the training classes"
        raise DMFormerError(
            f"The class folder {_first(prefix, unknown)} of {tree.title} is not in {where}; "
            "name the class folders alike in every split."
        )


def _first(prefix, folders):
    """The first of some folders, and how many more there are."""
    more = f" (and {len(folders) - 1} more)" if len(folders) > 1 else ""
    return f"{quoted(prefix + folders[0])}{more}"


def _read_classes_file(tree):
    """The second column (folders) and the third or second (names), in the first's order."""
    rows = read_classes_rows(tree)
    by_index = {row[0]: row[1:] for row in rows if len(row) > 1 and row[1]}
    indexes = [str(index) for index in range(len(rows))]
    folders = [by_index[index][0] for index in indexes if index in by_index]
    if not rows or len(set(folders)) != len(rows):
        raise DMFormerError(
            f"{CLASSES_FILE} of {tree.title} must have a line for every class with tabs between "
            "index (from 0, each once), folder (each once) and, optionally, name; correct it."
        )
    # Of three cells the last may be empty.
    return folders, ["".join(by_index[index][1:2]) or by_index[index][0] for index in indexes]


def read_classes_rows(tree):
    """The cells of classes.tsv, line by line, without its header and empty lines: a list of lists
    of str.
    """
    try:
        lines = tree.read(CLASSES_FILE, _CLASSES_FILE_LIMIT).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DMFormerError(
            f"{CLASSES_FILE} of {tree.title} is not UTF-8; save it as UTF-8."
        ) from error
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
    return rows[1:] if rows and rows[0][0].lower() == "index" else rows


def _files_by_class(tree, prefix):
    """{class folder: paths of its images}, and the other files' paths."""
    by_folder = {folder: [] for folder in tree.child_folders(prefix)}
    others = []
    for path in tree.files:
        folder, inside, _ = path[len(prefix) :].partition("/")
        if not path.startswith(prefix) or not inside:
            continue
        (by_folder[folder] if is_image_name(path) else others).append(path)
    return by_folder, others


def _check_none_is_empty(tree, prefix, by_folder, problems):
    empty = [folder for folder, paths in by_folder.items() if not paths]
    if not empty:
        return
    start = f"{prefix}{empty[0]}/"
    reason = next((text for path, text in problems if path.startswith(start)), None)
    raise DMFormerError(
        f"The class folder {_first(prefix, empty)} of {tree.title} holds no image"
        + (f": {reason}" if reason else "; add images or remove the folder.")
    )


def _in_order_of_classes(by_folder, class_folders):
    """Labels and paths, by class and path."""
    found = [
        (label, path)
        for label, folder in enumerate(class_folders)
        for path in by_folder.get(folder, [])
    ]
    return [label for label, _ in found], [path for _, path in found]


def _beside_the_classes(tree, prefix, count):
    """(path, reason) of the images that lie in no class folder."""
    loose = [path for path in tree.child_files(prefix) if is_image_name(path)]
    if len(loose) > count:
        raise DMFormerError(
            f"{tree.title} has {len(loose)} images outside of its class folders, such as "
            f"{quoted(loose[0])}, and {count} inside; give {LAYOUT}."
        )
    return [(path, f"{quoted(path)} lies in no class folder.") for path in loose]
