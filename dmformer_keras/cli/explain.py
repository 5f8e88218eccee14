"""`dmformer explain`"""

import sys
from pathlib import Path

from dmformer_keras.cli.arguments.explain import output_of
from dmformer_keras.cli.options import print_skipped, print_trained_on
from dmformer_keras.data import open_source
from dmformer_keras.data.images import load_reduced, resize_image
from dmformer_keras.errors import DMFormerError
from dmformer_keras.inference.model_outputs import class_names_of, image_size_of, is_segmenter
from dmformer_keras.loading import load
from dmformer_keras.training.trained_images import draw_of_run

_LARGEST = 512


def run(args):
    """Explains and prints."""
    path = output_of(args)
    from dmformer_keras.explain.figure import draw_explanation, draw_gates

    model = load(args.model, args.image_size)
    if args.data is not None:
        if is_segmenter(model):
            raise DMFormerError("--data is for classifiers; give a segmenter an image.")
        source = open_source(
            args.data,
            "val",
            channels=model.input.shape[-1],
            on_corrupt=args.on_corrupt,
            draw=draw_of_run(Path(args.model)),
        )
        print_skipped(source)
        print_trained_on(args.model, source)
        draw_gates(model, source, path)
        print(f"In {path}: the gates by stage and class")
        return
    names = class_names_of(model)
    image = load_reduced(args.image, model.input.shape[-1])
    image = resize_image(image, _size(model, image))
    print(
        "Computing the picture, which takes a minute, or several on a busy machine",
        file=sys.stderr,
        flush=True,
    )
    found = draw_explanation(model, image, path, _indexes(args.classes, names))
    for cam in found:
        print(f"{names[cam.class_index]}: {100 * cam.share:.1f} %")
    print(f"\nIn {path}: where they are seen, and what the attention does")


def _size(model, image):
    """The size to explain at: the model's own, or, of a segmenter of any size, the photograph's."""
    if not is_segmenter(model):
        return image_size_of(model)
    if None not in model.input.shape[1:3]:
        return model.input.shape[1:3]
    height, width = image.shape[:2]
    factor = min(1, _LARGEST / max(height, width))
    return max(32, round(factor * height)), max(32, round(factor * width))


def _indexes(classes, names):
    if classes is None:
        return None
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise DMFormerError(
            f"The model has no class {unknown[0]!r}; choose one of {', '.join(names)}."
        )
    return [names.index(name) for name in classes]
