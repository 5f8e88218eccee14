"""`dmformer package`"""

from dmformer_keras.cli.options import print_metrics
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.files import read_regular_text
from dmformer_keras.training.packaging import CARD_FILE, package


def run(args):
    """Packages and prints."""
    try:
        notes = read_regular_text(args.notes) if args.notes else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is no text in UTF-8")
        raise DMFormerError(
            f"The notes {args.notes!r} cannot be read ({reason}); give a text file."
        ) from None
    evaluation = package(
        args.run, args.output, args.data, args.split, notes, on_corrupt=args.on_corrupt
    )
    print_metrics(evaluation)
    print(f"\nIn {args.output}: the preset and its card, {CARD_FILE}")
