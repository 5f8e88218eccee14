"""The arguments of `dmformer predict`."""

from dmformer_keras.cli.arguments.shared import (
    EXPORTED_HELP,
    add_image_size_option,
    add_on_corrupt_option,
    add_segmentation_options,
    check_exists,
    check_model,
)
from dmformer_keras.errors import DMFormerError

DESCRIPTION = """\
Predict the classes of images.
A classifier prints the likeliest classes with their probabilities.
A segmenter predicts the class of each pixel. It prints each class's share of the image, and writes
NAME_mask.png, whose pixel values are class indexes, and NAME_overlay.png, the image with the
colors of its classes and a legend."""
EPILOG = """\
examples:
  dmformer predict runs/photos cat.jpg dog.png
  dmformer predict runs/photos folder/ --top 1
  dmformer predict runs/photos cat.jpg --json
  dmformer predict runs/streets street.jpg --output segmented
"""
DEFAULT_TOP = 3
DEFAULT_OUTPUT = "predictions"


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=EXPORTED_HELP)
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="image files, or folders of them at any depth"
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="K",
        help=f"number of classes that a classifier prints (default: {DEFAULT_TOP})",
    )
    add_on_corrupt_option(parser)
    add_image_size_option(parser)
    add_segmentation_options(parser)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help=f"folder of a segmenter's pictures (default: {DEFAULT_OUTPUT})",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one line of JSON: a list with one entry per image",
    )


def check(args):
    """Checks what can be known at once."""
    if args.top is not None and args.top < 1:
        raise DMFormerError(f"--top must be 1 or more, not {args.top}.")
    check_model(args.model, image_size=args.image_size)
    for image in args.images:
        check_exists(image, "images to predict")
