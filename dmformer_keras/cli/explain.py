"""`dmformer explain`"""

from pathlib import Path

from dmformer_keras.cli.options import (
    MODEL_HELP,
    add_data_options,
    add_image_size_option,
    load_model,
)
from dmformer_keras.data import load_image, open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.inference.model_outputs import class_names_of, image_size_of, is_segmenter

DESCRIPTION = """\
Draw what a model sees in an image: where its classes are (Grad-CAM), what each level of its
attention responds to, what the gates let through, and how far a block of each stage sees. With
--data instead of an image, how a classifier's gates are distributed by stage and class."""
EPILOG = """\
examples:
  dmformer explain dmformer_t_imagenette church.jpg
  dmformer explain runs/photos cat.jpg --class dog --output why-not-a-dog.png
  dmformer explain runs/streets street.jpg --image-size 360x480
  dmformer explain runs/photos --data photos/ --output gates.png

numbers under the last pictures: the side of the square that has 90 % of a block's gradient.
"""
_LARGEST = 512


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="an image file")
    add_data_options(parser, required=False)
    parser.add_argument(
        "--class",
        dest="classes",
        metavar="NAME",
        action="append",
        help="a class to look for, up to three (default: the likeliest)",
    )
    add_image_size_option(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the picture, ending in .png (default: NAME_explained.png, or gates.png)",
    )


def run(args):
    """Explains and prints."""
    if (args.image is None) == (args.data is None):
        raise DMFormerError("Give an image, or --data to see the gates by class, but not both.")
    if args.data is not None and args.classes:
        raise DMFormerError("--class is for an image; --data shows the gates of all classes.")
    default = f"{Path(args.image).stem}_explained.png" if args.image else "gates.png"
    path = Path(args.output or default)
    if path.suffix.lower() != ".png":
        raise DMFormerError(f"The picture is a PNG file: {str(path)!r} must end in .png.")
    if not path.absolute().parent.is_dir():
        raise DMFormerError(f"There is no folder {str(path.parent)!r}; make it, or choose another.")
    from dmformer_keras.explain.figure import draw_explanation, draw_gates

    model = load_model(args.model, args.image_size, exported=False)
    if args.data is not None:
        if is_segmenter(model):
            raise DMFormerError("--data is for classifiers; give a segmenter an image.")
        source = open_source(
            args.data, "val", channels=model.input.shape[-1], on_corrupt=args.on_corrupt
        )
        draw_gates(model, source, path)
        print(f"In {path}: the gates by stage and class")
        return
    names = class_names_of(model)
    image = load_image(args.image, _size(model, args), channels=model.input.shape[-1])
    found = draw_explanation(model, image, path, _indexes(args.classes, names))
    for cam in found:
        print(f"{names[cam.class_index]}: output {cam.score:.3f}")
    print(f"\nIn {path}: where they are seen, and what the attention does")


def _size(model, args):
    """The size of the image: the model's own, or, of a segmenter of any size, the photograph's."""
    if not is_segmenter(model):
        return image_size_of(model)
    if None not in model.input.shape[1:3]:
        return model.input.shape[1:3]
    height, width = load_image(args.image).shape[:2]
    factor = min(1, _LARGEST / max(height, width))
    return max(32, round(factor * height)), max(32, round(factor * width))


def _indexes(classes, names):
    if classes is None:
        return None
    if len(classes) > 3:
        raise DMFormerError(f"Up to three classes are shown, not {len(classes)}.")
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise DMFormerError(
            f"The model has no class {unknown[0]!r}; choose one of {', '.join(names)}."
        )
    return [names.index(name) for name in classes]
