"""`dmformer package`"""

from pathlib import Path

from dmformer_keras.cli.options import add_on_corrupt_option, print_metrics
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training.packaging import CARD_FILE, package

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


def run(args):
    """Packages and prints."""
    try:
        notes = Path(args.notes).read_text(encoding="utf-8") if args.notes else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is no text in UTF-8")
        raise DMFormerError(f"The notes {args.notes!r} cannot be read: {reason}.") from None
    evaluation = package(
        args.run, args.output, args.data, args.split, notes, on_corrupt=args.on_corrupt
    )
    print_metrics(evaluation)
    print(f"\nIn {args.output}: the preset and its card, {CARD_FILE}")
