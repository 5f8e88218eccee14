"""The arguments of `dmformer package`."""

from pathlib import Path

from dmformer_keras.cli.arguments.shared import add_on_corrupt_option, check_data, check_model
from dmformer_keras.training.folders import check_is_free

DESCRIPTION = """\
Make a preset to be given away of a finished training run: weights with kernels in half
precision where accuracy stays the same, checksums, history, and a model card whose figures are
measured here on what is given away."""
EPILOG = """\
examples:
  dmformer package runs/photos --output weights/photos --data photos.zip --notes licence.md
  dmformer package runs/streets --output weights/streets --data streets.zip --split test
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a finished `dmformer train`")
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="a new or empty folder, named as the preset"
    )
    parser.add_argument(
        "--data", metavar="SOURCE", required=True, help="what the card's figures are measured on"
    )
    parser.add_argument(
        "--split", choices=("val", "test"), default="val", help="of it (default: val)"
    )
    add_on_corrupt_option(parser)
    parser.add_argument(
        "--notes",
        metavar="FILE",
        help="Markdown that the card ends with: the licence of the data, limits",
    )


def check(args):
    """Checks what can be known at once."""
    kind = check_model(args.run, exported=False)
    check_is_free(Path(args.output))
    check_data(args.data, [args.split], kind, args.run)
