"""Options that several commands share, and what they print alike."""

import argparse
import contextlib
import sys

from dmformer_keras.data.image_source import skipped_text
from dmformer_keras.errors import DMFormerError
from dmformer_keras.inference.model_outputs import is_segmenter
from dmformer_keras.loading import load
from dmformer_keras.training import SegmentationEvaluation

MODEL_HELP = (
    "a preset with weights (see `dmformer presets`), the folder of a preset or of a training "
    "run, or a .keras file"
)
EXPORTED_HELP = f"{MODEL_HELP}; or an exported .tflite, .onnx or .xml file or SavedModel folder"
SOURCE_HELP = (
    "a folder of class folders or, to segment, of images/ and masks/, optionally under train/, "
    "val/ and test/; a zip of one; tfds:NAME; or digits (built in)"
)


def load_model(name, image_size=None, exported=True):
    """Loads a trained model, or an exported file that runs like one.

    Args:
        name: str, what `MODEL_HELP` or `EXPORTED_HELP` says.
        image_size: (height, width) or None, of a trained model.
        exported: bool. Whether an exported file will do.

    Returns:
        What `dmformer_keras.load` returns.

    Raises:
        DMFormerError: there is no such model, or not for this.
    """
    from dmformer_keras.export import is_exported

    if is_exported(name) and not exported:
        raise DMFormerError(
            f"{name} is an exported file already; give the model that it was made from."
        )
    if is_exported(name) and image_size is not None:
        raise DMFormerError(
            f"{name} takes images of the size that it was exported with; leave out --image-size."
        )
    return load(name, image_size)


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
        help="what to do about damaged images: stop before any work, or leave them out "
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
        help="cut images into overlapping windows of this size (default: the model's own size, or "
        "the whole image up to a megapixel and windows of 512 beyond)",
    )
    group.add_argument(
        "--overlap", type=float, metavar="X", help="part that windows share (default: 0.5)"
    )
    group.add_argument(
        "--flip",
        action="store_true",
        default=None,
        help="average over the image and its mirror image",
    )
    group.add_argument(
        "--scales",
        type=float,
        nargs="+",
        metavar="X",
        help="average over these multiples of the image's size (default: 1)",
    )


def segmentation_options(args, model):
    """Returns what `add_segmentation_options` was given, as keyword arguments.

    Checks `--image-size`, too, which is not for segmenters.

    Args:
        args: the parsed arguments.
        model: what `load_trained` returned.

    Raises:
        DMFormerError: an option was given that is not for this kind of model.
    """
    if args.image_size is not None and is_segmenter(model):
        raise DMFormerError(
            f"--image-size is for classifiers; {args.model} segments images in their own size, by "
            "windows with --window."
        )
    names = ("window", "overlap", "flip", "scales")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if given and not is_segmenter(model):
        raise DMFormerError(
            f"--{next(iter(given))} is for segmenters, and {args.model} is a classifier; leave it "
            "out."
        )
    return given


def image_size(text):
    """Reads `96` or `96x128` as (height, width)."""
    with contextlib.suppress(ValueError):
        sides = [int(side) for side in text.lower().split("x")]
        if len(sides) <= 2:
            return (sides * 2)[:2] if len(sides) == 1 else sides
    raise argparse.ArgumentTypeError(f"{text!r} is neither S nor HxW in pixels, such as 224")


def percent(share):
    """A share in 0..1 as people read it, two digits after the point."""
    return f"{100 * share:.2f} %"


def print_metrics(evaluation):
    """Prints the metrics of an `Evaluation` or a `SegmentationEvaluation`."""
    if isinstance(evaluation, SegmentationEvaluation):
        _print_segmentation(evaluation)
        return
    correct = round(evaluation.top1 * evaluation.examples)
    print(f"top-1  {percent(evaluation.top1):>9}  ({correct:,} of {evaluation.examples:,} images)")
    if evaluation.top5 is not None:
        print(f"top-5  {percent(evaluation.top5):>9}")
    print(f"loss   {evaluation.loss:9.4f}")


def _print_segmentation(evaluation):
    pixels = int(evaluation.confusion.sum())
    print(
        f"mIoU                    {percent(evaluation.miou):>9}  "
        f"({evaluation.examples:,} images, {pixels:,} pixels)"
    )
    for title, share in (
        ("pixel accuracy", evaluation.pixel_accuracy),
        ("mean accuracy", evaluation.mean_accuracy),
        ("frequency-weighted IoU", evaluation.frequency_weighted_iou),
    ):
        print(f"{title:<22}  {percent(share):>9}")


def print_skipped(source):
    """Says on stderr which files of a source were left out, and why."""
    if source.skipped:
        print(skipped_text(source, "open_source(...).skipped"), file=sys.stderr)
