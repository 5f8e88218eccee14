"""The arguments of `dmformer summary`."""

from dmformer_keras.cli.arguments.shared import add_image_size_option
from dmformer_keras.errors import DMFormerError
from dmformer_keras.presets.download import is_address
from dmformer_keras.presets.finding import read_preset
from dmformer_keras.task_table import head_names

DESCRIPTION = "Show the size of a model and its stages."
EPILOG = """\
examples:
  dmformer summary dmformer_s
  dmformer summary dmformer_n --image-size 96 --layers
  dmformer summary runs/photos
  dmformer summary dmformer_t --head semantic_fpn --num-classes 150 --image-size 512
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("name", metavar="NAME", help="a preset's name or folder")
    add_image_size_option(parser)
    parser.add_argument(
        "--head",
        choices=head_names(),
        help="put this segmentation head on the preset's backbone",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="number of classes (default: the preset's own, or 1,000)",
    )
    parser.add_argument("--layers", action="store_true", help="also list every layer")


def check(args):
    """Checks what can be known at once."""
    if args.head and args.num_classes is None:
        raise DMFormerError("A new head needs a number of classes; add --num-classes.")
    if not is_address(args.name):
        read_preset(args.name)
