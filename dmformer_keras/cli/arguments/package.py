"""The arguments of `dmformer package`."""

from pathlib import Path

from dmformer_keras.cli.arguments.shared import add_on_corrupt_option, check_data, check_model
from dmformer_keras.training.folders import check_is_free

DESCRIPTION = """\
Create a preset you can share from a finished training run: weights with kernels in half
precision if the accuracy stays the same, checksums, history, and a model card whose figures are
measured on this preset."""
EPILOG = """\
examples:
  dmformer package runs/photos --output weights/photos --data photos.zip --notes licence.md
  dmformer package runs/streets --output weights/streets --data streets.zip --split test
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a finished `dmformer train`")
    parser.add_argument(
        "--output",
        metavar="DIR",
        required=True,
        help="a new or empty folder; its name becomes the name of the preset",
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        required=True,
        help="the data that the figures on the model card are measured on",
    )
    parser.add_argument(
        "--split", choices=("val", "test"), default="val", help="split of the data (default: val)"
    )
    add_on_corrupt_option(parser)
    parser.add_argument(
        "--notes",
        metavar="FILE",
        help="a Markdown file added to the end of the model card, such as the data's licence and "
        "limits",
    )


def check(args):
    """Checks what can be known at once."""
    kind = check_model(args.run, exported=False)
    check_is_free(Path(args.output))
    check_data(args.data, [args.split], kind, args.run)
