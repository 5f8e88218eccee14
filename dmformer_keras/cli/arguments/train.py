"""The arguments of `dmformer train`."""

import argparse
import contextlib
import dataclasses
from pathlib import Path

from dmformer_keras.cli.arguments.shared import add_data_options, check_data
from dmformer_keras.data.sources import count_images, is_folder_or_zip
from dmformer_keras.errors import DMFormerError
from dmformer_keras.presets.download import is_address
from dmformer_keras.presets.finding import read_preset
from dmformer_keras.task_table import head_names
from dmformer_keras.training import recipes
from dmformer_keras.training.checkpoint import is_untouched, read_state
from dmformer_keras.training.folders import check_is_free
from dmformer_keras.training.recipe import (
    AUGMENTATIONS,
    CLASS_WEIGHTINGS,
    FEW_IMAGES,
    JOINT_AUGMENTATIONS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    STUDENT_SIZE,
    Recipe,
    SegmentationRecipe,
)
from dmformer_keras.training.trained_images import draw_of_run

DESCRIPTION = """\
Train a classifier or, with --task segment, a segmenter on labeled images, with AdamW or Muon, a
warm-up and a decay of the learning rate.
The output folder is a preset: the model of the epoch with the best validation accuracy or mIoU.
Give it to evaluate, predict and export, or as --preset of another training. It also contains
history.csv, report.json, curves.png and confusion_matrix.png.
If the data have no validation images, a tenth of the training images is held out."""
EPILOG = """\
examples:
  dmformer train --data photos/ --preset dmformer_t_mix --recipe auto --output runs/photos
  dmformer train --data photos.zip --output runs/fine --preset runs/photos --learning-rate 2e-4
  dmformer train --data tfds:cifar10 --output runs/cifar10 --image-size 32
  dmformer train --task segment --data streets/ --preset dmformer_t_mix --recipe camvid \\
      --output runs/streets

To continue an interrupted run, add --resume to the same command:
  dmformer train --data photos/ --preset dmformer_t_mix --recipe auto --output runs/photos --resume
"""


def _size_or_student(text):
    return text if text == STUDENT_SIZE else int(text)


AUTO = "auto"
_RECIPES = {"classify": Recipe, "segment": SegmentationRecipe}
_NONE = object()  # what `none` is read as: None itself means that the option was not given
# The option's type or choices, its metavar, and its explanation. Where the recipes' default
# is none, the text ends, after a semicolon, in what is done then.
_COMMON_OPTIONS = {
    "epochs": (int, "N", "number of passes over the training images"),
    "images_per_epoch": (
        int,
        "N",
        "images per epoch, when a whole pass takes too long for one checkpoint; one pass",
    ),
    "batch_size": (int, "N", "images per step"),
    "image_size": (
        int,
        "S",
        "height and width in pixels of the images or, to segment, of the crops; 32 or more; "
        "the preset's own, or 224",
    ),
    "channels": (int, "C", "channels of the images: 1, 3 or 4; 3 for image files"),
    "optimizer": (
        OPTIMIZERS,
        None,
        "muon trains the convolutions of the backbone's stages by Muon and the rest by AdamW; it "
        "needs a higher learning rate",
    ),
    "learning_rate": (float, "X", "the peak that the warm-up reaches"),
    "base_batch_size": (
        int,
        "N",
        "images per update that the learning rate is meant for; for another number of images it "
        "is scaled in proportion; not scaled",
    ),
    "accumulate": (int, "N", "batches per update"),
    "warmup_epochs": (float, "X", "epochs of linear warm-up; a tenth of the epochs, at most 5"),
    "weight_decay": (float, "X", "decay of kernels"),
    "layer_decay": (
        float,
        "X",
        "factor of the learning rate per block of distance from the head",
    ),
    "augmentation": (
        tuple(dict.fromkeys([*AUGMENTATIONS, *JOINT_AUGMENTATIONS])),
        None,
        "random changes to training images: standard for photographs, light for digits and "
        "whatever must not be mirrored or cropped, degraded for photographs from sources of "
        "different sharpness, imagenet to classify a million photographs, ade20k to "
        "segment photographs of any size",
    ),
    "stochastic_depth": (float, "X", "chance to drop the deepest branches; the preset's own"),
    "dropout": (float, "X", "dropout before the last layer; the preset's or the head's own"),
    "clip_norm": (float, "X", "clip the norm of all gradients together; no clipping"),
    "ema": (
        float,
        "X",
        "momentum of a moving average of the weights; the average is saved; no average",
    ),
    "precision": (PRECISIONS, None, "arithmetic of the layers"),
    "class_weighting": (CLASS_WEIGHTINGS, None, "give rare classes more weight in the loss"),
    "teacher_weight": (float, "X", "the teacher's share of the loss, see --teacher"),
    "temperature": (float, "X", "divisor of the teacher's and the student's logits"),
    "teacher_image_size": (
        _size_or_student,
        "S|student",
        "height and width in pixels of the teacher's input images, or student for the size of "
        "the training images; the teacher's own",
    ),
    "validate_every": (int, "N", "epochs between validations"),
    "seed": (
        int,
        "N",
        "seed of the initial weights, the order of the images and their random changes",
    ),
}
_TASK_OPTIONS = {
    "classify": {
        "label_smoothing": (float, "X", "share of the target that is spread over all classes"),
        "mixup": (float, "X", "mix pairs of images, with shares drawn from Beta(X, X)"),
        "cutmix": (
            float,
            "X",
            "paste boxes of other images, with shares of the area drawn from Beta(X, X)",
        ),
        "feature_weight": (float, "X", "weight of the error of a teacher's stored features"),
        "probe": (
            bool,
            None,
            "first solve the best linear head for the preset's features (of --images-per-epoch "
            "images, if given), which takes about a minute, print its accuracy, and start from it",
        ),
        "augment_on_device": (
            bool,
            None,
            "keep the images in memory, and augment and mix them on the training device: for "
            "fast GPUs with JAX or PyTorch",
        ),
    },
    "segment": {
        "head": (head_names(), None, "head of the segmenter"),
        "head_channels": (int, "C", "width of the head; the head's own"),
        "normalization": (
            ("batch", "group"),
            None,
            "normalization of the head; the preset's, or batch",
        ),
        "schedule": (SCHEDULES, None, "decay of the learning rate"),
        "power": (float, "X", "exponent of the polynomial decay; 1 is linear"),
        "dice": (float, "X", "weight of the Dice loss beside the cross-entropy"),
        "lovasz": (float, "X", "weight of the Lovász-softmax loss beside the cross-entropy"),
    },
}


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument(
        "--preset",
        default="dmformer_n",
        help="name or folder of the preset to start from, with its weights if it has any "
        "(default: dmformer_n)",
    )
    add_data_options(parser)
    parser.add_argument(
        "--task",
        choices=tuple(_RECIPES),
        default="classify",
        help="what to train: a classifier or a segmenter (default: classify)",
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="a new or empty folder")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write logs for TensorBoard"
    )
    parser.add_argument(
        "--distribute",
        action="store_true",
        help="train on all devices of this machine, and together with the other processes of this "
        "run; see docs/distributed.md",
    )
    parser.add_argument(
        "--cache",
        metavar="memory|DIR",
        help="decode the training images once, and keep their pixels in memory or in this folder, "
        "which several runs may share (default: decode them in every epoch)",
    )
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="also learn from the outputs of a trained classifier or segmenter: a preset, the "
        "folder of a run, or a .keras file; see docs/teacher.md",
    )
    parser.add_argument(
        "--teacher-cache",
        metavar="DIR",
        help="learn from a teacher's stored outputs for the training images: a folder with "
        "names.txt, and with logits.npy and classes.txt, features.npy, or all of them; with "
        "--teacher they are computed once and stored in this folder",
    )
    parser.add_argument(
        "--teacher-classes",
        metavar="FILE",
        help="the names of the teacher's classes, if it has none: one per line in the order of its "
        "outputs",
    )
    common = parser.add_argument_group("recipe")
    common.add_argument(
        "--recipe",
        metavar="NAME",
        help="take the settings that are not given from this recipe: "
        f"{', '.join(recipes.names())}; auto chooses few_images or fine_tuning by the number of "
        "images in --data; `--clip-norm none` and the like undo a setting of the recipe",
    )
    for field, option in _COMMON_OPTIONS.items():
        _add_option(common, field, option, tuple(_RECIPES))
    common.add_argument(
        "--progressive-resizing",
        type=_size_and_epochs,
        nargs="*",
        metavar="S:N",
        help="smaller images in the first epochs: 64:20 96:10 trains 20 epochs at 64x64, 10 at "
        "96x96, and the others, if any, at --image-size, the size of validation (default, and "
        "without a value: --image-size in all epochs)",
    )
    common.add_argument(
        "--freeze-backbone", action="store_true", default=None, help="train the head only"
    )
    common.add_argument(
        "--gradient-checkpointing",
        type=int,
        choices=range(1, 5),
        nargs="*",
        metavar="STAGE",
        help="compute the activations of these stages (1 to 4; all if none is given) again in the "
        "backward pass: less memory, more time, the same results; may be added when a run is "
        "resumed (default: none)",
    )
    for task, options in _TASK_OPTIONS.items():
        group = parser.add_argument_group(f"recipe of --task {task}")
        for field, option in options.items():
            _add_option(group, field, option, (task,))


def _add_option(group, field, option, tasks):
    kind, metavar, text = option
    if kind is bool:
        flag = "--" + field.replace("_", "-")
        group.add_argument(flag, action="store_true", default=None, help=text)
        return
    *most, last = text.split("; ")
    defaults = {task: getattr(_RECIPES[task], field) for task in tasks}
    said = list(dict.fromkeys(last if value is None else str(value) for value in defaults.values()))
    optional = None in defaults.values()
    text = "; ".join(most) if optional else text
    if len(said) > 1:
        said = [f"{value} to {task}" for task, value in zip(tasks, said, strict=True)]
    if isinstance(kind, tuple):
        choice = {"choices": kind}
    else:
        choice = {"type": _or_none(kind) if optional else kind}
    group.add_argument(
        "--" + field.replace("_", "-"),
        metavar=metavar,
        help=f"{text} (default: {'; '.join(said)})",
        **choice,
    )


def _or_none(kind):
    """A reader of numbers that knows the word `none`, too."""

    def read(text):
        return _NONE if text == "none" else kind(text)

    read.__name__ = kind.__name__  # argparse names it where a text is no number
    return read


def _size_and_epochs(text):
    """Reads `64:20` as (64, 20)."""
    with contextlib.suppress(ValueError):
        size, epochs = text.split(":")
        return int(size), int(epochs)
    raise argparse.ArgumentTypeError(f"{text!r} is not SIZE:EPOCHS, such as 64:20")


def check(args):
    """Checks what can be known at once, and puts a recipe's name in the place of `auto`."""
    if args.recipe == AUTO:
        args.recipe, images = _recipe_for(args)
        print(f"--recipe auto: {args.recipe or 'the defaults'}, for {images}")
    recipe = recipe_of(args)
    if not is_address(args.preset):
        recipe.check_preset(read_preset(args.preset))
    output = Path(args.output)
    # Of processes that train together, the first may have begun in the folder, or alone have it.
    if not args.distribute:
        _check_output(output, args.resume)
    check_data(args.data, ["train", "val"], args.task, args.output)


def _check_output(output, resume):
    if not resume:
        check_is_free(output)
    elif not is_untouched(output):
        read_state(output)


def recipe_of(args):
    """The recipe of the task, of what was given."""
    cls = _RECIPES[args.task]
    for task, options in _TASK_OPTIONS.items():
        for field in () if task == args.task else options:
            if getattr(args, field) is not None:
                raise DMFormerError(
                    f"--{field.replace('_', '-')} is of --task {task}, and this is --task "
                    f"{args.task}; leave it out, or change the task."
                )
    fields = [field.name for field in dataclasses.fields(cls)]
    given = {field: getattr(args, field) for field in fields if getattr(args, field) is not None}
    given = {field: None if value is _NONE else value for field, value in given.items()}
    if given.get("gradient_checkpointing") == []:
        given["gradient_checkpointing"] = True
    start = cls.named(args.recipe) if args.recipe else cls()
    epochs, image_size = (
        given.get(field) or getattr(start, field) for field in ("epochs", "image_size")
    )
    return dataclasses.replace(start, **_parts_of(start, epochs, image_size) | given)


def _recipe_for(args):
    """The name of the recipe that suits the images, None without weights to begin with; and why."""
    if args.task != "classify" or not is_folder_or_zip(args.data):
        raise DMFormerError(
            "--recipe auto counts the images in a folder or zip of class folders; name a recipe, "
            "or leave it out."
        )
    if not is_address(args.preset) and not read_preset(args.preset).has_weights:
        return None, f"{args.preset} has no weights to start from"
    images = count_images(args.data, "train", draw=draw_of_run(Path(args.output)))
    name = "few_images" if images < FEW_IMAGES else "fine_tuning"
    return name, f"{images:,} training images"


def _parts_of(recipe, epochs, image_size):
    """What a recipe says of a part of its epochs, for other epochs and another size."""
    share = epochs / recipe.epochs
    phases, first, end = [], 0, 0
    for size, part in recipe.progressive_resizing:
        if size >= image_size:
            break
        end += part
        until = epochs * end // recipe.epochs
        if until > first:
            phases.append((size, until - first))
            first = until
    parts = {"progressive_resizing": phases}
    if recipe.warmup_epochs is not None:
        parts["warmup_epochs"] = recipe.warmup_epochs * min(1, share)
    return parts
