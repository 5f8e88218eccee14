"""`dmformer predict`"""

import json
from pathlib import Path

import numpy as np

from dmformer_keras.cli.options import MODEL_HELP, add_image_size_option, percent
from dmformer_keras.data import load_image
from dmformer_keras.data.folders import EXTENSIONS
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import image_size_of, load_classifier, to_probabilities

DESCRIPTION = "Name what is on images: the likeliest classes with their probabilities."
EPILOG = """\
examples:
  dmformer predict runs/photos cat.jpg dog.png
  dmformer predict runs/photos folder/ --top 1
  dmformer predict runs/photos cat.jpg --json
"""
_BATCH_SIZE = 32


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="image files, or folders of them at any depth"
    )
    parser.add_argument(
        "--top", type=int, default=3, metavar="K", help="how many classes (default: 3)"
    )
    add_image_size_option(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one line of JSON: a list with one entry an image",
    )


def run(args):
    """Predicts and prints."""
    if args.top < 1:
        raise DMFormerError(f"--top must be 1 or more, not {args.top}.")
    paths = image_files(args.images)
    model = load_classifier(args.model, args.image_size)
    predictions = []
    for first in range(0, len(paths), _BATCH_SIZE):
        for prediction in predict(model, paths[first : first + _BATCH_SIZE], args.top):
            if args.json:
                predictions.append(prediction)
            else:
                _print(prediction)
    if args.json:
        print(json.dumps(predictions))


def image_files(arguments):
    """Returns the files that are named, and the image files in the folders that are.

    Args:
        arguments: list of str, paths of files and folders.

    Raises:
        DMFormerError: a file is not there, or a folder holds no image.
    """
    paths = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in EXTENSIONS and file.is_file()
            ]
            if not found:
                raise DMFormerError(
                    f"The folder {argument!r} holds no image "
                    f"({', '.join(sorted(EXTENSIONS))}); give one that does."
                )
            paths.extend(found)
        elif path.is_file():
            paths.append(path)
        else:
            raise DMFormerError(f"There is no file or folder {argument!r}; give images to name.")
    return paths


def predict(model, paths, top):
    """Returns the likeliest classes of images.

    Args:
        model: `DMFormerClassifier`.
        paths: list of Path, image files.
        top: int, how many classes.

    Returns:
        list of {"image": str, "predictions": [{"class", "index", "probability"}]}.
    """
    size, channels = image_size_of(model), model.input.shape[-1]
    images = np.stack([load_image(path, size, channels=channels) for path in paths])
    outputs = np.asarray(model.predict_on_batch(images.astype("float32")))
    names = model.class_names or [str(index) for index in range(model.num_classes)]
    results = []
    for path, probabilities in zip(paths, to_probabilities(outputs, model.activation), strict=True):
        likeliest = np.argsort(-probabilities, kind="stable")[:top]
        results.append(
            {
                "image": str(path),
                "predictions": [
                    {
                        "class": names[index],
                        "index": int(index),
                        "probability": float(probabilities[index]),
                    }
                    for index in likeliest
                ],
            }
        )
    return results


def _print(prediction):
    print(prediction["image"])
    for entry in prediction["predictions"]:
        print(f"  {percent(entry['probability']):>9}  {entry['class']}")
