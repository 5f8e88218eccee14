"""`dmformer predict`"""

import json
import sys
from pathlib import Path

from dmformer_keras.cli.arguments.predict import DEFAULT_OUTPUT, DEFAULT_TOP
from dmformer_keras.cli.options import percent, segmentation_options
from dmformer_keras.data import load_image
from dmformer_keras.data.folders import images_below
from dmformer_keras.data.image_source import UnusableImagesError, find_problems, skipped_lines
from dmformer_keras.data.images import check_image_file
from dmformer_keras.data.layout import EXTENSIONS
from dmformer_keras.data.trees import printable, quoted
from dmformer_keras.errors import DMFormerError
from dmformer_keras.inference.answers import likeliest_classes, segment
from dmformer_keras.inference.mask_pictures import class_table, draw_overlay, save_mask
from dmformer_keras.inference.model_outputs import class_names_of, is_segmenter
from dmformer_keras.loading import load
from dmformer_keras.system.files import written_whole


def run(args):
    """Predicts and prints."""
    paths, skipped = image_files(args.images, args.on_corrupt)
    model = load(args.model, args.image_size)
    how = segmentation_options(args, model)
    option, kind = ("top", "classifiers") if is_segmenter(model) else ("output", "segmenters")
    if getattr(args, option) is not None:
        raise DMFormerError(f"--{option} is for {kind}, and {args.model} is none; leave it out.")
    if is_segmenter(model):
        found = draw_segments(model, paths, Path(args.output or DEFAULT_OUTPUT), how)
        show = _print_segmentation
    else:
        found = name_classes(model, paths, args.top or DEFAULT_TOP)
        show = _print
    if skipped:
        # Printed once all else is said to be right.
        print(skipped_lines(skipped), file=sys.stderr)
    predictions = []
    for prediction in found:
        if args.json:
            predictions.append(prediction)
        else:
            show(prediction)
    if args.json:
        print(json.dumps(predictions))


def name_classes(model, paths, top):
    """Classifies images; returns {"image": str, "predictions": [{"class", "index",
    "probability"}]}.
    """
    names = class_names_of(model)
    for path, likeliest in zip(paths, likeliest_classes(model, paths, top), strict=True):
        predictions = [
            {"class": names[index], "index": index, "probability": probability}
            for index, probability in likeliest
        ]
        yield {"image": str(path), "predictions": predictions}


def draw_segments(model, paths, folder, how):
    """Segments images, and writes an overlay and a mask of each; returns {"image": str, "overlay":
    str, "mask": str, "classes": [{"class", "index", "pixels", "share"}]}, the largest class first.
    """
    if any(path.resolve().parent == folder.resolve() for path in paths):
        raise DMFormerError(
            f"The folder {str(folder)!r} holds images to segment, which their pictures might "
            "replace; choose another with --output."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DMFormerError(
            f"The folder {str(folder)!r} cannot be made ({error.strerror}); choose another with "
            "--output."
        ) from error
    channels = model.input.shape[-1]
    names = class_names_of(model)
    colors = getattr(model, "class_colors", None)
    for path, name in zip(paths, unique_names(paths), strict=True):
        image = load_image(path, channels=channels)
        mask = segment(model, image, **how)
        overlay, written = folder / f"{name}_overlay.png", folder / f"{name}_mask.png"
        with written_whole(overlay) as beside:
            draw_overlay(image, mask, names, colors).save(beside)
        save_mask(mask, written, colors)
        yield {
            "image": str(path),
            "overlay": str(overlay),
            "mask": str(written),
            "classes": [
                {"class": label, "index": names.index(label), "pixels": pixels, "share": share}
                for label, pixels, share in class_table(mask, names)
            ],
        }


def unique_names(paths):
    """Returns a name for each file: its own without the suffix, numbered where it comes again.

    Example:

    >>> unique_names([Path("a/street.jpg"), Path("b/street.png"), Path("park.jpg")])
    ['street', 'street-2', 'park']
    """
    names, taken, numbers = [], set(), {}
    for path in paths:
        name = path.stem
        while name in taken:
            numbers[path.stem] = numbers.get(path.stem, 1) + 1
            name = f"{path.stem}-{numbers[path.stem]}"
        taken.add(name)
        names.append(name)
    return names


def image_files(arguments, on_corrupt="error"):
    """Returns the files that are named, and the image files in the folders that are: a list of
    Path; and list of str, why files were left out.
    """
    paths, reasons = [], []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found, others = images_below(argument)
            if not found and not others:
                raise DMFormerError(
                    f"The folder {quoted(argument)} holds no image "
                    f"({', '.join(sorted(EXTENSIONS))}); give one that does."
                )
            paths += map(Path, found)
            reasons += [reason for _, reason in others]
        elif path.exists():
            paths.append(path)
        else:
            raise DMFormerError(
                f"There is no file or folder {quoted(argument)}; give images to predict."
            )

    def look(index):
        # Whoever wants damaged images skipped wants the others whole.
        check_image_file(paths[index], fully=on_corrupt == "skip")

    problems = find_problems(len(paths), look)
    reasons += problems.values()
    kept = [path for index, path in enumerate(paths) if index not in problems]
    if reasons and (on_corrupt == "error" or not kept):
        raise UnusableImagesError("The data", reasons, len(kept) + len(reasons))
    return kept, reasons


def _print_segmentation(prediction):
    print(printable(prediction["image"]))
    for entry in prediction["classes"]:
        print(f"  {percent(entry['share']):>9}  {entry['class']}")
    print(printable(f"  {prediction['overlay']}, {prediction['mask']}"))


def _print(prediction):
    print(printable(prediction["image"]))
    for entry in prediction["predictions"]:
        print(f"  {percent(entry['probability']):>9}  {entry['class']}")
