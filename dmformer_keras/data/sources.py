"""`open_source` and the checks of what it is given."""

import os
from collections.abc import Sequence
from typing import Literal, overload

from dmformer_keras.data.arrays import open_arrays, open_digits
from dmformer_keras.data.folders import list_folder, open_folder
from dmformer_keras.data.image_source import ImageSource
from dmformer_keras.data.segmentation_folder import (
    check_segmentation_folder,
    open_segmentation_folder,
)
from dmformer_keras.data.segmentation_source import SegmentationSource, open_segmentation_arrays
from dmformer_keras.data.splits import DRAWS, SPLITS
from dmformer_keras.data.tfds_source import PREFIX as TFDS_PREFIX
from dmformer_keras.data.tfds_source import open_segmentation_tfds, open_tfds
from dmformer_keras.errors import DMFormerError
from dmformer_keras.type_names import Data, PathLike


@overload
def open_source(
    source: Data,
    split: str = "train",
    *,
    task: Literal["segment"],
    channels: int | None = None,
    on_corrupt: str = "error",
    verify: bool = True,
    validation_fraction: float = 0.1,
    seed: int = 0,
    draw: str = "name",
    download: bool = False,
    ignored_labels: Sequence[int] = (),
) -> SegmentationSource: ...


@overload
def open_source(
    source: Data,
    split: str = "train",
    *,
    task: str = "classify",
    channels: int | None = None,
    on_corrupt: str = "error",
    verify: bool = True,
    validation_fraction: float = 0.1,
    seed: int = 0,
    draw: str = "name",
    download: bool = False,
    ignored_labels: Sequence[int] = (),
) -> ImageSource: ...


def open_source(
    source,
    split="train",
    *,
    task="classify",
    channels=None,
    on_corrupt="error",
    verify=True,
    validation_fraction=0.1,
    seed=0,
    draw="name",
    download=False,
    ignored_labels=(),
):
    """Open labeled images: for classification, or with task="segment" images with masks.

    The sources for classification:

    - a folder of class folders with images (JPEG, PNG, BMP, GIF, WebP, TIFF) at any depth,
      optionally under `train/`, `val/` and `test/`, or what else splits are called (`Training`,
      `dev`, `seg_test`, `val2017`). Classes are numbered by their sorted folder names, or by a
      `classes.tsv` beside them: index, folder and, optionally, a readable name, with tabs
      between. Folders around it all, hidden files and files that are no images are passed over.
    - a zip of such a folder, read in place.
    - `(images, labels)` or `(images, labels, class_names)` in memory: images as uint8, or as
      float in 0..255, (number, height, width[, channels]) or a list of images of any sizes;
      labels as whole numbers from 0.
    - `"tfds:NAME"` or `"tfds:NAME:VERSION"`, prepared by tensorflow_datasets where
      `TFDS_DATA_DIR` says. Over 2 GiB it is streamed: see `to_tf_dataset`.
    - `"digits"`, the 1,797 handwritten digits of scikit-learn at 32x32, no network needed.

    The sources for segmentation:

    - a folder with `images/` and `masks/` (or `annotations/`, `labels/`), optionally under
      `train/`, `val/` and `test/`, or with these inside `images/` and `masks/`. A mask has the
      path of its image but for the extension (PNG, BMP, GIF or TIFF) and, optionally, an ending
      that all masks share: `cat.jpg` and `cat_mask.png`. RGB masks hold the colors of a
      `classes.tsv` that lies at the top: index (the label), name and, optionally, red, green
      and blue, with tabs between. Grey and palette masks hold labels, as their stored values;
      but where the classes have colors, a palette must show these, and is read by them, and so
      are grey masks whose values are colors and no labels. Transparent pixels are ignored
      where a class is. A class called void,
      ignore, ignored, unlabeled or unlabelled is ignored, and the label 255 always is: such
      pixels read as 255; the other classes are numbered from 0 in the order of their labels.
      Without `classes.tsv` every label from 0 to the highest in the training masks is a class,
      named by its number. A mask of the size that a photo has before its EXIF orientation
      turns it is turned alike.
    - a zip of such a folder, read in place.
    - `(images, masks)` or `(images, masks, class_names)` in memory: images as above; masks as
      whole numbers, (number, height, width) or a list of arrays of the images' sizes.
    - `"tfds:NAME"` or `"tfds:NAME:VERSION"` with a mask beside the photo, of up to 2 GiB.
      Labels that begin at 1 leave a class "0" without pixels: pass ignored_labels=[0].

    Where there is no validation split, "val" is a share of the training images of every class,
    always the same images, and "train" is the rest.

    Args:
        source: str, path, or tuple of arrays.
        split: "train", "val", "test", or "all" for everything in a source without splits.
        task: "classify" or "segment".
        channels: int, 1, 3 or 4 for image files; None means 3 for files, and the arrays' own.
        on_corrupt: what to do about files that are no images or damaged, and about images and
            masks that do not fit each other: "error", or "skip" to leave them out, listed in
            `skipped`.
        verify: bool, decode every image once now, so that training does not stop at a damaged
            one later; otherwise only the headers are looked at.
        validation_fraction: float in [0, 1), the share of "val" where it is cut out of the
            training images; 0 leaves all to "train".
        seed: int, not negative: which images that share is.
        draw: "name" or "position", how that share is drawn from files: by a hash of each file's
            name, which adding and removing files does not change for the others, or as the first
            versions of this package did. Data that are no files are always drawn by position.
        download: bool, let tensorflow_datasets download what is not prepared.
        ignored_labels: ints, labels of masks that are ignored as void is, for data that call
            it otherwise.

    Returns:
        ImageSource; SegmentationSource with task="segment".

    Raises:
        DMFormerError: there is no such source or split, its layout, labels or values are
            wrong, or images are damaged and not to be skipped.

    Example:

    >>> source = open_source("digits", split="val", channels=1)
    >>> source
    ArraySource('digits', split='val', images=179, classes=10, channels=1, skipped=0)
    >>> image, label = source.read(0)
    >>> image.shape, source.class_names[label]
    ((32, 32, 1), '8')
    """
    _check_options(task, split, on_corrupt, validation_fraction, seed, ignored_labels)
    if draw not in DRAWS:
        raise DMFormerError(f"draw must be one of {', '.join(DRAWS)}, not {draw!r}.")
    options = {"validation_fraction": validation_fraction, "seed": seed}
    segments = task == "segment"
    if segments:
        options["ignored_labels"] = ignored_labels
    if isinstance(source, (tuple, list)):
        open_in_memory = open_segmentation_arrays if segments else open_arrays
        return open_in_memory(source, split, channels=channels, **options)
    channels = 3 if channels is None else channels
    if not isinstance(source, (str, os.PathLike)):
        raise DMFormerError(
            "A data source is the path of a folder or zip, 'tfds:NAME', 'digits', (images, labels) "
            f"or (images, masks), not a {type(source).__name__}; give one of these."
        )
    if source == "digits":
        if segments:
            raise DMFormerError("The source 'digits' has no masks; use it with task='classify'.")
        return open_digits(split, channels=channels)
    options |= {"channels": channels, "on_corrupt": on_corrupt, "verify": verify}
    if str(source).startswith(TFDS_PREFIX):
        open_prepared = open_segmentation_tfds if segments else open_tfds
        return open_prepared(source, split, download=download, **options)
    open_files = open_segmentation_folder if segments else open_folder
    return open_files(source, split, draw=draw, **options)


def check_source(
    source: PathLike, split: str, *, task: str = "classify", draw: str = "name"
) -> None:
    """Checks what is quick to check of a source: its place, its folders and its files' names.

    Example:

    >>> check_source("no/such/folder", "train")
    Traceback (most recent call last):
    ...
    dmformer_keras.errors.DMFormerError: The data source 'no/such/folder' does not exist; give ...
    """
    if not is_folder_or_zip(source):
        return
    if task == "segment":
        check_segmentation_folder(source, split)
    else:
        count_images(source, split, draw=draw)


def count_images(source: PathLike, split: str, *, draw: str = "name") -> int:
    """Counts the images of a folder of class folders, or a zip of one, by their names."""
    options = {"validation_fraction": 0.1, "seed": 0, "draw": draw}
    listed, _ = list_folder(source, split, channels=3, **options)
    return len(listed)


def is_folder_or_zip(source: PathLike) -> bool:
    """Tells whether a source is meant as a path: it is no name of a data set."""
    return str(source) != "digits" and not str(source).startswith(TFDS_PREFIX)


def _check_options(task, split, on_corrupt, validation_fraction, seed, ignored_labels):
    if task not in ("classify", "segment"):
        raise DMFormerError(f"task must be 'classify' or 'segment', not {task!r}.")
    numbers = isinstance(ignored_labels, (list, tuple, set, range)) and all(
        isinstance(label, int) for label in ignored_labels
    )
    if not numbers or (ignored_labels and task == "classify"):
        raise DMFormerError(
            "ignored_labels must be a list of whole numbers, for task='segment' only, not "
            f"{ignored_labels!r}."
        )
    if split not in SPLITS:
        raise DMFormerError(f"split must be one of {', '.join(SPLITS)}, not {split!r}.")
    if on_corrupt not in ("error", "skip"):
        raise DMFormerError(f"on_corrupt must be 'error' or 'skip', not {on_corrupt!r}.")
    if not 0 <= validation_fraction < 1:
        raise DMFormerError(
            f"validation_fraction must be from 0 to below 1, not {validation_fraction!r}."
        )
    if not isinstance(seed, int) or seed < 0:
        raise DMFormerError(f"seed must be a whole number, 0 or more, not {seed!r}.")
