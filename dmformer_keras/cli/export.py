"""`dmformer export`"""

import json
import logging
import shlex
import sys
from pathlib import Path

from dmformer_keras.cli.arguments.export import format_of, options_of
from dmformer_keras.cli.options import percent, print_skipped, print_trained_on, same_data
from dmformer_keras.data import open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.loading import load
from dmformer_keras.training import image_size_of, is_segmenter
from dmformer_keras.training.trained_images import draw_of_run


def run(args):
    """Exports, and prints what the report says."""
    from dmformer_keras import export

    _print_progress()
    form = format_of(args)
    options = options_of(args, form)
    model = load(args.model, args.image_size)
    any_size = None in model.input.shape[1:3]
    resizable = options.get("resizable")
    if any_size and not resizable and args.image_size is None and is_segmenter(model):
        raise DMFormerError(
            f"{args.model} segments images of any size, and a file takes one size; choose it with "
            "--image-size."
        )
    if not resizable:
        size = args.image_size or image_size_of(model)
        options["input_shape"] = (*size, model.input.shape[-1])
    if args.data is not None:
        options["images"] = args.data
        _open_data(options, args, model)
    path = getattr(export, f"to_{form}")(
        model, args.output, fuse=not args.no_fuse, tolerance=args.tolerance, **options
    )
    report = json.loads(export.report_path(path).read_text(encoding="utf-8"))
    _print_report(path, report, is_segmenter(model))
    print(f"Report: {export.report_path(path)}\nNext:")
    file = shlex.quote(str(path))
    if args.data is not None:
        print(f"  dmformer evaluate {file} {same_data(args)}")
    print(f"  dmformer predict {file} IMAGE...")


def _open_data(options, args, model):
    """Opens the images of an export as the run drew them; without damaged ones, if asked for."""
    for name, split in (("images", "val"), ("representative_data", "train")):
        if name in options:
            options[name] = open_source(
                args.data,
                split,
                task="segment" if is_segmenter(model) else "classify",
                channels=model.input.shape[-1],
                on_corrupt=args.on_corrupt,
                # Only those that are read are decoded, unless damaged ones are to be left out.
                verify=args.on_corrupt == "skip",
                draw=draw_of_run(Path(args.model)),
            )
    print_skipped(*(options[name] for name in ("images", "representative_data") if name in options))
    print_trained_on(args.model, options["images"])


def _print_progress():
    """Shows each step of the export as a line on stderr."""
    logger = logging.getLogger("dmformer_keras.export")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _print_report(path, report, segments):
    compared = report["compared"]
    shape = "x".join("any" if side is None else str(side) for side in report["input_shape"])
    print(f"Wrote {path}, {report['bytes'] / 1e6:.2f} MB, {report['format']}, input {shape}")
    what = "pixels" if segments else "images"
    print(
        f"Beside Keras on {compared['images']} images ({compared['origin']}): same class on "
        f"{percent(compared['top1_agreement'])} of {what}, outputs apart by "
        f"{compared['max_difference']:.2g} at most and {compared['mean_difference']:.2g} on "
        f"average, of a range of {compared['output_range']:.3g}"
    )
    latency = ", ".join(
        f"{value:.1f} ms on {threads} thread{'s' if threads != '1' else ''}"
        for threads, value in report["latency_ms"].items()
    )
    print(f"Latency {latency}; memory {report['peak_memory_bytes'] / 1e6:.0f} MB")
