"""`dmformer train`"""

import dataclasses
import shlex
import sys
from pathlib import Path

from dmformer_keras.cli.options import add_data_options, print_metrics
from dmformer_keras.training import Recipe, train
from dmformer_keras.training.checkpoint import resumable_epoch
from dmformer_keras.training.engine import CONFUSION_FILE, CURVES_FILE, REPORT_FILE
from dmformer_keras.training.recipe import AUGMENTATIONS, PRECISIONS

DESCRIPTION = """\
Train a classifier on labelled images with AdamW, a warm-up and a cosine decay.
The output folder holds the model of the epoch with the best validation accuracy (a preset
folder: give it to evaluate, predict, export, or as --preset of another training),
history.csv, report.json, curves.png and confusion_matrix.png.
Where the data have no validation images, a tenth of the training images is held out."""
EPILOG = """\
examples:
  dmformer train --data photos/ --output runs/photos --epochs 20 --image-size 96
  dmformer train --data photos.zip --output runs/fine --preset runs/photos --learning-rate 2e-4
  dmformer train --data tfds:cifar10 --output runs/cifar10 --image-size 32

an interrupted run is continued by the same command and --resume:
  dmformer train --data photos/ --output runs/photos --epochs 20 --image-size 96 --resume
"""

# The option's type or choices, its metavar, and its explanation; defaults are Recipe's.
_OPTIONS = {
    "epochs": (int, "N", "passes over the training images"),
    "batch_size": (int, "N", "images a step"),
    "image_size": (int, "S", "height and width in pixels, 32 or more; the preset's own, or 224"),
    "channels": (int, "C", "channels of the images: 1, 3 or 4; 3 for image files"),
    "learning_rate": (float, "X", "the peak that the warm-up reaches"),
    "warmup_epochs": (float, "X", "epochs of linear warm-up; a tenth of the epochs, at most 5"),
    "weight_decay": (float, "X", "decay of kernels"),
    "label_smoothing": (float, "X", "share of the target that all classes share"),
    "augmentation": (
        AUGMENTATIONS,
        None,
        "random changes to training images: standard for photographs, light for digits and "
        "whatever must not be mirrored or cropped",
    ),
    "stochastic_depth": (float, "X", "chance to drop the deepest branches; the preset's own"),
    "dropout": (float, "X", "dropout before the last layer; the preset's own"),
    "clip_norm": (float, "X", "clip the norm of all gradients together; no clipping"),
    "precision": (PRECISIONS, None, "arithmetic of the layers"),
    "seed": (int, "N", "of initial weights, order and changes of the images"),
}


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument(
        "--preset",
        default="dmformer_n",
        help="what to start from: a preset's name or folder, with its weights if it has some "
        "(default: dmformer_n)",
    )
    add_data_options(parser)
    parser.add_argument(
        "--task", choices=("classify",), default="classify", help="(default: classify)"
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="a new or empty folder")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    recipe = parser.add_argument_group("recipe")
    for field, (kind, metavar, text) in _OPTIONS.items():
        default = getattr(Recipe, field)
        # Where the default is none, the text ends in what is done then.
        *most, last = text.split("; ")
        text = f"{text} (default: {default})" if default is not None else (
            f"{'; '.join(most)} (default: {last})"
        )  # fmt: skip
        choice = {"choices": kind} if isinstance(kind, tuple) else {"type": kind}
        recipe.add_argument(
            "--" + field.replace("_", "-"), default=default, metavar=metavar, help=text, **choice
        )
    recipe.add_argument("--freeze-backbone", action="store_true", help="train the head only")
    recipe.add_argument(
        "--gradient-checkpointing",
        type=int,
        choices=range(1, 5),
        nargs="*",
        default=Recipe.gradient_checkpointing,
        metavar="STAGE",
        help="compute these stages (1 to 4; all where none is named) again in the backward pass: "
        "less memory, more time, the same results; may be added when a run is resumed "
        "(default: none)",
    )


def run(args):
    """Trains and reports."""
    fields = [field.name for field in dataclasses.fields(Recipe)]
    values = {field: getattr(args, field) for field in fields}
    if values["gradient_checkpointing"] == []:
        values["gradient_checkpointing"] = True
    recipe = Recipe(**values)
    evaluation = train(
        recipe,
        args.preset,
        args.data,
        args.output,
        resume=args.resume,
        on_corrupt=args.on_corrupt,
        command=args.command_line,
        verbose=progress_style(),
    )
    print("\nValidation, as `dmformer evaluate` repeats it:")
    print_metrics(evaluation)
    written = [REPORT_FILE, CURVES_FILE, CONFUSION_FILE]
    made = [name for name in written if (Path(args.output) / name).exists()]
    output = shlex.quote(args.output)
    print(f"\nIn {args.output}: the model, history.csv, {', '.join(made)}\nNext:")
    print(f"  dmformer evaluate {output} --data {shlex.quote(args.data)}")
    print(f"  dmformer predict {output} IMAGE...")
    print(f"  dmformer export {output} --output model.tflite")


def after_interruption(args):
    """Says how to go on after Ctrl-C."""
    epochs = resumable_epoch(args.output)
    if epochs is None:
        return "Nothing was written yet; run the command again to start over."
    command = args.command_line + ("" if args.resume else " --resume")
    return f"{epochs} finished epoch(s) are kept; continue with: {command}"


def progress_style():
    """Keras's `verbose`: a bar on a terminal, a line an epoch in a log file."""
    return 1 if sys.stdout.isatty() else 2
