"""`dmformer train`"""

import shlex
import sys
from pathlib import Path

from dmformer_keras.cli.arguments.train import recipe_of
from dmformer_keras.cli.options import print_metrics, same_data
from dmformer_keras.training import train
from dmformer_keras.training.checkpoint import resumable_epoch
from dmformer_keras.training.run_report import CONFUSION_FILE, CURVES_FILE, REPORT_FILE


def run(args):
    """Trains and reports."""
    recipe = recipe_of(args)
    evaluation = train(
        recipe,
        args.preset,
        args.data,
        args.output,
        resume=args.resume,
        on_corrupt=args.on_corrupt,
        tensorboard=args.tensorboard,
        distribute=args.distribute,
        cache=args.cache,
        teacher=args.teacher,
        teacher_cache=args.teacher_cache,
        teacher_classes=args.teacher_classes,
        command=args.command_line,
        verbose=progress_style(),
    )
    if evaluation is None:
        return  # the first of several processes tells
    print("\nValidation, as `dmformer evaluate` repeats it:")
    print_metrics(evaluation)
    written = [REPORT_FILE, CURVES_FILE, CONFUSION_FILE]
    made = [name for name in written if (Path(args.output) / name).exists()]
    output = shlex.quote(args.output)
    print(f"\nIn {args.output}: the model, history.csv, {', '.join(made)}\nNext:")
    print(f"  dmformer evaluate {output} {same_data(args)}")
    print(f"  dmformer predict {output} IMAGE...")
    size = f" --image-size {recipe.image_size}" if args.task == "segment" else ""
    print(f"  dmformer export {output} --output model.tflite{size}")


def after_interruption(args):
    """Says how to go on after Ctrl-C."""
    epochs = resumable_epoch(args.output)
    if epochs is None:
        return "Nothing was written yet; run the command again to start over."
    command = args.command_line + ("" if args.resume else " --resume")
    return f"{epochs} finished epoch(s) are kept; continue with: {command}"


def progress_style():
    """Keras's `verbose`: a bar on a terminal, a line per epoch in a log file."""
    return 1 if sys.stdout.isatty() else 2
