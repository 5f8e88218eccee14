"""What several commands do and print alike."""

import shlex
import sys
from pathlib import Path

from dmformer_keras.data.image_source import skipped_files, skipped_lines
from dmformer_keras.errors import DMFormerError
from dmformer_keras.inference.model_outputs import is_segmenter
from dmformer_keras.training import SegmentationEvaluation
from dmformer_keras.training.evaluation import tells_top5
from dmformer_keras.training.trained_images import trained_on_warning


def segmentation_options(args, model):
    """Returns what `add_segmentation_options` was given, as keyword arguments.

    Checks `--image-size`, too, which is not for segmenters.
    """
    if args.image_size is not None and is_segmenter(model):
        raise DMFormerError(
            f"--image-size is for classifiers; {args.model} segments images in their own size, by "
            "windows with --window."
        )
    names = ("window", "overlap", "flip", "scales")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if given and not is_segmenter(model):
        raise DMFormerError(
            f"--{next(iter(given))} is for segmenters, and {args.model} is a classifier; leave it "
            "out."
        )
    return given


def percent(share):
    """A share in 0..1 as people read it, two digits after the point."""
    return f"{100 * share:.2f} %"


def print_metrics(evaluation):
    """Prints the metrics of an `Evaluation` or a `SegmentationEvaluation`."""
    if isinstance(evaluation, SegmentationEvaluation):
        _print_segmentation(evaluation)
        return
    correct = round(evaluation.top1 * evaluation.examples)
    print(f"top-1  {percent(evaluation.top1):>9}  ({correct:,} of {evaluation.examples:,} images)")
    if tells_top5(evaluation.class_names):
        print(f"top-5  {percent(evaluation.top5):>9}")
    print(f"loss   {evaluation.loss:9.4f}")


def _print_segmentation(evaluation):
    pixels = int(evaluation.confusion.sum())
    print(
        f"mIoU                    {percent(evaluation.miou):>9}  "
        f"({evaluation.examples:,} images, {pixels:,} pixels)"
    )
    for title, share in (
        ("pixel accuracy", evaluation.pixel_accuracy),
        ("mean accuracy", evaluation.mean_accuracy),
        ("frequency-weighted IoU", evaluation.frequency_weighted_iou),
    ):
        print(f"{title:<22}  {percent(share):>9}")


def same_data(args):
    """The options by which the next command reads the data that this one has read."""
    skip = " --on-corrupt skip" if args.on_corrupt == "skip" else ""
    return f"--data {shlex.quote(args.data)}{skip}"


def print_skipped(*sources):
    """Says on stderr which files of the sources were left out, and why."""
    if skipped := skipped_files(*sources):
        reasons = [reason for _, reason in skipped]
        of = f" of the {sources[0].split} split" if len(sources) == 1 else ""
        where = ": open_source(...).skipped lists all"
        print(skipped_lines(reasons, of, where), file=sys.stderr)


def print_trained_on(model, source):
    """Says on stderr how many images of a source the run of a model was trained on, if any."""
    if warning := trained_on_warning(Path(model), source):
        print(warning, file=sys.stderr)
