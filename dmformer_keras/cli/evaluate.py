"""`dmformer evaluate`"""

import json
from pathlib import Path

from dmformer_keras.cli.options import (
    percent,
    print_metrics,
    print_skipped,
    print_trained_on,
    segmentation_options,
)
from dmformer_keras.data import open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.loading import load
from dmformer_keras.training import evaluate, evaluate_segmenter, is_segmenter
from dmformer_keras.training.evaluation import EVALUATION_BATCH_SIZE
from dmformer_keras.training.trained_images import draw_of_run


def run(args):
    """Evaluates and prints."""
    model = load(args.model, args.image_size)
    segments = is_segmenter(model)
    how = segmentation_options(args, model)
    if segments and args.batch_size is not None:
        raise DMFormerError(
            "--batch-size is for classifiers; a segmenter sees one image at a time."
        )
    source = open_source(
        args.data,
        args.split,
        task="segment" if segments else "classify",
        channels=model.input.shape[-1],
        on_corrupt=args.on_corrupt,
        draw=draw_of_run(Path(args.model)),
    )
    print_skipped(source)
    print_trained_on(args.model, source)
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
