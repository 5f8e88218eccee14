"""One door to labelled images, wherever they lie."""

import os

from dmformer_keras.data.arrays import open_arrays, open_digits
from dmformer_keras.data.folders import open_folder
from dmformer_keras.data.splits import SPLITS
from dmformer_keras.data.tfds_source import PREFIX as TFDS_PREFIX
from dmformer_keras.data.tfds_source import open_tfds
from dmformer_keras.errors import DMFormerError


def open_source(
    source,
    split="train",
    *,
    channels=None,
    on_corrupt="error",
    verify=True,
    validation_fraction=0.1,
    seed=0,
    download=False,
):
    """Open labelled images for classification.

    The sources:

    - a folder of class folders with images (JPEG, PNG, BMP, GIF, WebP, TIFF) at any depth,
      optionally under `train/`, `val/` (or `valid/`, `validation/`) and `test/`. Classes are
      numbered by their sorted folder names, or by a `classes.tsv` beside them: index, folder
      and, optionally, a readable name, with tabs between. Hidden files are passed over.
    - a zip of such a folder, read in place.
    - `(images, labels)` or `(images, labels, class_names)` in memory: images as uint8, or as
      float in 0..255, (number, height, width[, channels]) or a list of images of any sizes;
      labels as whole numbers from 0.
    - `"tfds:NAME"` or `"tfds:NAME:VERSION"`, prepared by tensorflow_datasets where
      `TFDS_DATA_DIR` says. Over 2 GiB it is streamed: see `to_tf_dataset`.
    - `"digits"`, the 1,797 handwritten digits of scikit-learn at 32x32, no network needed.

    Where there is no validation split, "val" is a fixed share of the training images, of
    every class alike, and "train" is the rest.

    Args:
        source: str, path, or tuple of arrays.
        split: "train", "val", "test", or "all" for everything in a source without splits.
        channels: int, 1, 3 or 4 for image files; None means 3 for files, and the arrays' own.
        on_corrupt: what to do about files that are no images or damaged: "error", or "skip"
            to leave them out, listed in `skipped`.
        verify: bool, decode every image once now, so that training does not stop at a damaged
            one later; otherwise only the headers are looked at.
        validation_fraction: float in [0, 1), the share of "val" where it is cut out of the
            training images; 0 leaves all to "train".
        seed: int, not negative: which images that share is.
        download: bool, let tensorflow_datasets download what is not prepared.

    Returns:
        ImageSource.

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
    _check_options(split, on_corrupt, validation_fraction, seed)
    carving = {"validation_fraction": validation_fraction, "seed": seed}
    if isinstance(source, (tuple, list)):
        return open_arrays(source, split, channels=channels, **carving)
    channels = 3 if channels is None else channels
    if not isinstance(source, (str, os.PathLike)):
        raise DMFormerError(
            "A data source is the path of a folder or zip, 'tfds:NAME', 'digits' or "
            f"(images, labels), got {type(source).__name__}."
        )
    if source == "digits":
        return open_digits(split, channels=channels)
    checking = {"on_corrupt": on_corrupt, "verify": verify}
    if str(source).startswith(TFDS_PREFIX):
        return open_tfds(source, split, channels=channels, download=download, **checking, **carving)
    return open_folder(source, split, channels=channels, **checking, **carving)


def _check_options(split, on_corrupt, validation_fraction, seed):
    if split not in SPLITS:
        raise DMFormerError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    if on_corrupt not in ("error", "skip"):
        raise DMFormerError(f"on_corrupt must be 'error' or 'skip', got {on_corrupt!r}.")
    if not 0 <= validation_fraction < 1:
        raise DMFormerError(
            f"validation_fraction must be from 0 to below 1, got {validation_fraction!r}."
        )
    if not isinstance(seed, int) or seed < 0:
        raise DMFormerError(f"seed must be a whole number, 0 or more, got {seed!r}.")
