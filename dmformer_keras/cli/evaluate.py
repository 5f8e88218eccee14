"""`dmformer evaluate`"""

import json
import sys

from dmformer_keras.cli.options import (
    MODEL_HELP,
    add_data_options,
    add_image_size_option,
    percent,
    print_metrics,
)
from dmformer_keras.data import open_source
from dmformer_keras.data.splits import SPLITS
from dmformer_keras.training import evaluate, load_classifier
from dmformer_keras.training.evaluation import EVALUATION_BATCH_SIZE

DESCRIPTION = """\
Measure a trained classifier on labelled images: the share of images whose class is the
likeliest (top-1) or among the five likeliest (top-5, with more than five classes), the mean
cross-entropy, and the accuracy of every class."""
EPILOG = """\
examples:
  dmformer evaluate runs/photos --data photos/
  dmformer evaluate runs/photos --data photos.zip --split test --json
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_data_options(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="val",
        help="all is everything in data without splits (default: val)",
    )
    add_image_size_option(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=EVALUATION_BATCH_SIZE,
        metavar="N",
        help=f"images at a time (default: {EVALUATION_BATCH_SIZE})",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON, shares in 0..1"
    )


def run(args):
    """Evaluates and prints."""
    model = load_classifier(args.model, args.image_size)
    channels = model.input.shape[-1]
    source = open_source(args.data, args.split, channels=channels, on_corrupt=args.on_corrupt)
    if source.skipped:
        print(f"Skipped {len(source.skipped)} damaged images.", file=sys.stderr)
    evaluation = evaluate(model, source, batch_size=args.batch_size, progress=True)
    if args.json:
        result = {
            "model": args.model,
            "data": args.data,
            "split": args.split,
            **evaluation.metrics(),
            "skipped": len(source.skipped),
            "class_accuracy": evaluation.class_accuracy,
        }
        print(json.dumps(result))
        return
    print(f"{args.model} on {source.title}, split {args.split}")
    print_metrics(evaluation)
    print("\naccuracy by class, the hardest first")
    known = {name: share for name, share in evaluation.class_accuracy.items() if share is not None}
    for name, share in sorted(known.items(), key=lambda item: item[1]):
        print(f"  {percent(share):>9}  {name}")
