"""The arguments of `dmformer explain`."""

from pathlib import Path

from dmformer_keras.cli.arguments.shared import (
    MODEL_HELP,
    add_data_options,
    add_image_size_option,
    check_can_write,
    check_data,
    check_exists,
    check_model,
)
from dmformer_keras.errors import DMFormerError

DESCRIPTION = """\
Draw what a model sees in an image: where it sees its classes (Grad-CAM), what each level of its
attention responds to, the values of its gates, and how far a block of each stage sees. With
--data instead of an image, draw a classifier's gate values by stage and class."""
EPILOG = """\
examples:
  dmformer explain dmformer_t_imagenette church.jpg
  dmformer explain runs/photos cat.jpg --class dog --output why-not-a-dog.png
  dmformer explain runs/streets street.jpg --image-size 360x480
  dmformer explain runs/photos --data photos/ --output gates.png

The numbers under the last pictures are receptive fields: the side in pixels of the square that
has 90 % of a block's gradient.
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="an image file")
    add_data_options(parser, required=False)
    parser.add_argument(
        "--class",
        dest="classes",
        metavar="NAME",
        action="append",
        help="a class to look for, up to three (default: the likeliest)",
    )
    add_image_size_option(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the picture, ending in .png (default: NAME_explained.png, or gates.png)",
    )


def check(args):
    """Checks what can be known at once."""
    if (args.image is None) == (args.data is None):
        raise DMFormerError(
            "explain takes an image, or --data for the gates by class; give one of the two."
        )
    if args.data is not None and args.classes:
        raise DMFormerError(
            "--class is for an image, and --data shows the gates of all classes; leave one out."
        )
    if args.classes and len(args.classes) > 3:
        raise DMFormerError(
            f"Up to three classes are shown, not {len(args.classes)}; give --class at most three "
            "times."
        )
    path = output_of(args)
    if path.suffix.lower() != ".png":
        raise DMFormerError(f"The picture is a PNG file: {str(path)!r} must end in .png.")
    check_can_write(path)
    kind = check_model(args.model, exported=False)
    if args.image is not None:
        check_exists(args.image, "an image file")
    elif kind == "segment":
        raise DMFormerError("--data is for classifiers; give a segmenter an image.")
    else:
        check_data(args.data, ["val"], kind, args.model)


def output_of(args):
    """The Path of the picture."""
    default = f"{Path(args.image).stem}_explained.png" if args.image else "gates.png"
    return Path(args.output or default)
