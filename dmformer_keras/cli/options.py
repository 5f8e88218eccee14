"""Options that several commands share, and what they print alike."""

import argparse
import contextlib

MODEL_HELP = (
    "a preset with weights (see `dmformer presets`), the folder of a preset or of a training "
    "run, or a .keras file"
)
SOURCE_HELP = (
    "a folder of class folders, optionally under train/, val/ and test/; a zip of one; "
    "tfds:NAME; or digits (built in)"
)


def add_data_options(parser, required=True):
    """Adds `--data` and `--on-corrupt`."""
    parser.add_argument("--data", metavar="SOURCE", required=required, help=SOURCE_HELP)
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
    """Prints top-1, top-5 and loss of an `Evaluation`."""
    correct = round(evaluation.top1 * evaluation.examples)
    print(f"top-1  {percent(evaluation.top1):>9}  ({correct:,} of {evaluation.examples:,} images)")
    if evaluation.top5 is not None:
        print(f"top-5  {percent(evaluation.top5):>9}")
    print(f"loss   {evaluation.loss:9.4f}")
