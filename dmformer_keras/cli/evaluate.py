"""`dmformer evaluate`"""

import json
import sys
from pathlib import Path

from dmformer_keras.cli.options import (
    EXPORTED_HELP,
    add_data_options,
    add_image_size_option,
    add_segmentation_options,
    load_model,
    percent,
    print_metrics,
    print_skipped,
    segmentation_options,
)
from dmformer_keras.data import open_source
from dmformer_keras.data.splits import SPLITS
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import evaluate, evaluate_segmenter, is_segmenter
from dmformer_keras.training.evaluation import EVALUATION_BATCH_SIZE
from dmformer_keras.training.trained_images import draw_of_run, trained_on_warning

DESCRIPTION = """\
Measure a trained model on labelled images. A classifier: the share of images whose class is
the likeliest (top-1) or among the five likeliest (top-5, with more than five classes), the mean
cross-entropy, and the accuracy of every class. A segmenter, on images in their own size: mean
intersection over union (mIoU) and that of every class, pixel accuracy, mean accuracy of the
classes, frequency-weighted IoU."""
EPILOG = """\
examples:
  dmformer evaluate runs/photos --data photos/
  dmformer evaluate runs/photos --data photos.zip --split test --json
  dmformer evaluate photos_int8.tflite --data photos/
  dmformer evaluate runs/streets --data streets/ --split test --flip --scales 0.75 1 1.25
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=EXPORTED_HELP)
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
        metavar="N",
        help=f"images at a time, of a classifier (default: {EVALUATION_BATCH_SIZE})",
    )
    add_segmentation_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON, shares in 0..1"
    )


def run(args):
    """Evaluates and prints."""
    model = load_model(args.model, args.image_size)
    segments = is_segmenter(model)
    how = segmentation_options(args, model)
    if segments and args.batch_size is not None:
        raise DMFormerError("--batch-size is for classifiers; a segmenter sees one image a time.")
    source = open_source(
        args.data,
        args.split,
        task="segment" if segments else "classify",
        channels=model.input.shape[-1],
        on_corrupt=args.on_corrupt,
        draw=draw_of_run(Path(args.model)),
    )
    print_skipped(source)
    if warning := trained_on_warning(Path(args.model), source):
        print(warning, file=sys.stderr)
    if segments:
        evaluation = evaluate_segmenter(model, source, progress=True, **how)
        by_class, title = evaluation.class_iou, "intersection over union by class"
    else:
        batch_size = EVALUATION_BATCH_SIZE if args.batch_size is None else args.batch_size
        evaluation = evaluate(model, source, batch_size=batch_size, progress=True)
        by_class, title = evaluation.class_accuracy, "accuracy by class"
    if args.json:
        result = {
            "model": args.model,
            "data": args.data,
            "split": args.split,
            **evaluation.metrics(),
            "skipped": len(source.skipped),
            "class_accuracy": evaluation.class_accuracy,
            **({"class_iou": by_class} if segments else {}),
        }
        print(json.dumps(result))
        return
    print(f"{args.model} on {source.title}, split {args.split}")
    print_metrics(evaluation)
    print(f"\n{title}, the hardest first")
    known = {name: share for name, share in by_class.items() if share is not None}
    for name, share in sorted(known.items(), key=lambda item: item[1]):
        print(f"  {percent(share):>9}  {name}")
