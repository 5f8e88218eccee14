"""Images and masks in folders, or in a zip of them: which files belong together."""

import collections

from dmformer_keras.data.folders import read_classes_rows, sort_others
from dmformer_keras.data.image_source import UnusableImagesError, refuse_layout
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
from dmformer_keras.data.masks import MaskClasses
from dmformer_keras.data.segmentation_source import (
    EncodedSegmentationSource,
    Pair,
    carved_pairs,
    find_labels,
)
from dmformer_keras.data.splits import stored_split
from dmformer_keras.data.trees import CLASSES_FILE, open_tree, quoted
from dmformer_keras.errors import DMFormerError

LAYOUT = (
    "a folder with images/ and masks/ of the same file names inside, "
    "optionally under train/, val/ and test/"
)


def open_segmentation_folder(
    path, split, *, channels, on_corrupt, verify, validation_fraction, seed, draw, ignored_labels
):
    """Open a folder of images and masks, or a zip of one."""
    check_file_channels(channels)
    tree, folders, stored, carved = _splits(path, split)
    pairs, problems, passed_over = _pairs(tree, *folders[stored])
    if CLASSES_FILE in tree.files:
        classes = _classes_of_file(tree, ignored_labels)
    else:
        reference = "train" if "train" in folders else stored
        training = pairs if reference == stored else _pairs(tree, *folders[reference])[0]
        # Before an error says that the masks hold no classes.
        if problems and on_corrupt == "error":
            reasons = [reason for _, reason in problems]
            raise UnusableImagesError(str(path), reasons, len(pairs) + len(problems))
        labels = find_labels(training, tree.read, on_corrupt)
        classes = MaskClasses.of_labels(labels, ignored_labels, tree.title)
    if carved:
        start = len(folders[stored][0])
        names = [pair.image[start:] for pair in pairs] if draw == "name" else None
        pairs = carved_pairs(tree.title, split, pairs, validation_fraction, seed, names)
    source = EncodedSegmentationSource(
        str(path),
        split,
        classes,
        channels,
        passed_over,
        pairs=pairs,
        fetch=tree.read,
        stamp=tree.stamp,
    )
    return source.verified(on_corrupt, fully=verify, problems=problems)


def check_segmentation_folder(path, split):
    """Checks the folders of images and masks, without looking into a file of either."""
    tree, folders, stored, _ = _splits(path, split)
    _pairs(tree, *folders[stored])
    if CLASSES_FILE in tree.files:
        _classes_of_file(tree, ())


def _splits(path, split):
    """The tree, {split: (prefix of its images, of its masks)}, and where a split is to be found."""
    tree = without_wrappers(open_tree(path, LAYOUT))
    folders = _split_folders(tree)
    return tree, folders, *stored_split(tree.title, split, folders)


def _classes_of_file(tree, ignored_labels):
    rows = []
    for cells in read_classes_rows(tree):
        try:
            label, *color = (int(cell) for cell in (cells[0], *cells[2:5]))
            name = cells[1]
        except (ValueError, IndexError):
            color, name = [None], None
        if name is None or len(color) not in (0, 3):
            raise DMFormerError(
                f"{CLASSES_FILE} of {tree.title} has the line {quoted(' '.join(cells))}; expected "
                "index, name and, optionally, red, green and blue, with tabs between."
            )
        rows.append((label, name, tuple(color) or None))
    return MaskClasses.of_table(rows, ignored_labels, f"{CLASSES_FILE} of {tree.title}")


def _split_folders(tree):
    """{split: (prefix of its images, prefix of its masks)}."""
    images, masks = _images_and_masks(tree, "")
    if images and masks:
        # The splits may lie inside: images/train/, masks/train/.
        of_images, of_masks = split_prefixes(tree, images), split_prefixes(tree, masks)
        return {
            split: (prefix, of_masks.get(split, masks + prefix.removeprefix(images)))
            for split, prefix in of_images.items()
        }
    prefixes = split_prefixes(tree)
    if "all" in prefixes and not images and not masks:
        check_no_unknown_splits(tree, "")
    return {split: _images_and_masks(tree, prefix) for split, prefix in prefixes.items()}


def _images_and_masks(tree, prefix):
    return tuple(find_folder(tree, prefix, names) for names in (IMAGE_FOLDERS, MASK_FOLDERS))


def _pairs(tree, images_prefix, masks_prefix):
    """The pairs of a split by name, and two lists of (name, reason).

    The first is of images that have no partner or cannot be read, the second of files that
    are no images.
    """
    for prefix, missing in ((images_prefix, "images/"), (masks_prefix, "masks/")):
        if prefix is None or prefix[:-1] not in tree.folders:
            raise DMFormerError(
                f"{tree.title} has no folder {quoted(prefix or missing)} beside "
                f"{listed(tree.child_folders()) or 'nothing'}; for segmentation give {LAYOUT} (a "
                "folder of class folders is for task='classify')."
            )
    images, others = _files_by_stem(tree, images_prefix)
    masks, more_others = _files_by_stem(tree, masks_prefix)
    masks = _without_suffix(masks, images)
    problems, passed_over = sort_others(tree, others + more_others)
    problems += [
        (path, f"The image {quoted(path)} has no mask.")
        for stem, path in images.items()
        if stem not in masks
    ]
    problems += [
        (path, f"The mask {quoted(path)} has no image.")
        for stem, path in masks.items()
        if stem not in images
    ]
    pairs = [
        Pair(path, masks[stem], path, masks[stem]) for stem, path in images.items() if stem in masks
    ]
    if not pairs:
        raise DMFormerError(
            f"{tree.title} has no image with a mask ({len(images)} images in "
            f"{quoted(images_prefix, 40)}, {len(masks)} masks in {quoted(masks_prefix, 40)}); give "
            f"{LAYOUT}."
        )
    return pairs, problems, passed_over


def _files_by_stem(tree, prefix):
    """{path without prefix and extension: path} of the images, and the paths of other files."""
    by_stem, others, doubled = {}, [], []
    for path in tree.files:
        if not path.startswith(prefix):
            continue
        if not is_image_name(path):
            others.append(path)
            continue
        stem = path[len(prefix) :].rpartition(".")[0]
        if stem in by_stem:
            doubled.append(
                f"{tree.title} has two files for one name, {quoted(by_stem[stem])} and "
                f"{quoted(path)}; keep one."
            )
        by_stem[stem] = path
    if doubled:
        refuse_layout(tree.title, doubled)
    return by_stem, others


def _without_suffix(masks, images):
    """The masks by the names of their images, where all masks' names end alike: cat_mask."""
    if not masks or masks.keys() & images.keys():
        return masks
    suffixes = collections.Counter()
    for stem in masks:
        starts = (stem[:end] for end in range(len(stem) - 1, 0, -1))
        image = next((start for start in starts if start in images), None)
        if image is not None:
            suffixes[stem[len(image) :]] += 1
    if not suffixes:
        return masks
    suffix = suffixes.most_common(1)[0][0]
    return {stem.removesuffix(suffix): path for stem, path in masks.items()}
