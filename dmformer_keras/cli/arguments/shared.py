"""Options that several commands share, and the checks of what is given to them."""

import argparse
import contextlib
import os
from pathlib import Path

from dmformer_keras.data.sources import check_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.exported_files import is_exported
from dmformer_keras.presets.download import is_address
from dmformer_keras.presets.finding import read_preset
from dmformer_keras.presets.folder import check_is_trained
from dmformer_keras.task_table import OWN_KINDS
from dmformer_keras.training.trained_images import draw_of_run

MODEL_HELP = (
    "a preset with weights (see `dmformer presets`), the folder of a preset or of a training "
    "run, or a .keras file"
)
EXPORTED_HELP = f"{MODEL_HELP}; or an exported .tflite, .onnx or .xml file or SavedModel folder"
SOURCE_HELP = (
    "a folder of class folders or, to segment, of images/ and masks/, optionally under train/, "
    "val/ and test/; a zip of one; tfds:NAME; or digits (built in)"
)


def add_data_options(parser, required=True):
    """Adds `--data` and `--on-corrupt`."""
    parser.add_argument("--data", metavar="SOURCE", required=required, help=SOURCE_HELP)
    add_on_corrupt_option(parser)


def add_on_corrupt_option(parser):
    """Adds `--on-corrupt`."""
    parser.add_argument(
        "--on-corrupt",
        choices=("error", "skip"),
        default="error",
        help="what to do with damaged images: error stops before any work, skip leaves them out "
        "(default: error)",
    )


def add_image_size_option(parser):
    """Adds `--image-size`, S or HxW."""
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="S|HxW",
        help="size of the images in pixels (default: the model's own)",
    )


def add_segmentation_options(parser):
    """Adds `--window`, `--overlap`, `--flip` and `--scales`."""
    group = parser.add_argument_group("segmenters")
    group.add_argument(
        "--window",
        type=image_size,
        metavar="S|HxW",
        help="cut images into overlapping windows of this size (default: the model's own size; for "
        "a model of any size, the whole image up to a megapixel, and 512 for larger images)",
    )
    group.add_argument(
        "--overlap",
        type=float,
        metavar="X",
        help="share of a window that overlaps the next one (default: 0.5)",
    )
    group.add_argument(
        "--flip",
        action="store_true",
        default=None,
        help="average the predictions for the image and its mirror image",
    )
    group.add_argument(
        "--scales",
        type=float,
        nargs="+",
        metavar="X",
        help="average the predictions at these multiples of the image's size (default: 1)",
    )


def image_size(text):
    """Reads `96` or `96x128` as (height, width)."""
    with contextlib.suppress(ValueError):
        sides = [int(side) for side in text.lower().split("x")]
        if len(sides) <= 2:
            return (sides * 2)[:2] if len(sides) == 1 else sides
    raise argparse.ArgumentTypeError(f"{text!r} is neither S nor HxW in pixels, such as 224")


def check_model(name, *, exported=True, image_size=None):
    """Checks that there is a trained model, or an exported file, as far as a look tells; returns a
    str, "classify" or "segment"; None where only loading it tells.
    """
    if is_exported(name):
        if not exported:
            raise DMFormerError(
                f"{name} is an exported file already; give the model that it was made from."
            )
        if image_size is not None:
            raise DMFormerError(
                f"{name} takes images of the size that it was exported with; leave out "
                "--image-size."
            )
        check_exists(name, "a model that was exported")
        return None
    if is_address(name):
        return None
    if name.endswith(".keras"):
        check_exists(name, "a model that was saved")
        return None
    preset = read_preset(name)
    check_is_trained(preset)
    return OWN_KINDS.get(preset.task.get("class_name"))


def check_exists(path, what):
    """Checks that there is a file or folder."""
    if not os.path.exists(path):
        raise DMFormerError(f"There is no file or folder {path!r}; give {what}.")


def check_data(source, splits, kind, model=None):
    """Checks the folders of labeled images."""
    if kind is None:
        return
    draw = draw_of_run(Path(model)) if model is not None else "name"
    for split in splits:
        check_source(source, split, task=kind, draw=draw)


def check_can_write(path):
    """Checks that the folder of a file to write is there."""
    if not path.absolute().parent.is_dir():
        raise DMFormerError(f"There is no folder {str(path.parent)!r}; make it, or choose another.")


def positive(text):
    """Reads a positive whole number."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")


def positive_number(text):
    """Reads a positive number."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
