"""Pre- and postprocessing that run_tflite.py and run_onnx.py share, with numpy and Pillow alone.

Copy it along with either of them.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def main(model_class, summary):
    """Runs a model on the images that the command line names.

    Args:
        model_class: class; `model_class(path, threads)` has `description`, the content of
            `model.json`, and `run(image)`, from a float32 array (height, width, channels) to
            the float32 outputs of that one image.
        summary: str, the first line of `--help`.
    """
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for masks, overlays")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="image size, for a file of open size",
    )
    arguments = parser.parse_args()
    if arguments.threads < 1 or min(arguments.size or [1]) < 1:
        parser.error("--threads and --size take positive numbers.")
    if not arguments.model.is_file():
        parser.error(f"There is no file {arguments.model}.")
    model = model_class(arguments.model, arguments.threads)
    description = model.description
    if description["task"] not in ("classify", "segment"):
        parser.error(f"{arguments.model} returns features, not classes or a mask.")
    height, width, channels = description["input"]["shape"]
    if (height is None) == (arguments.size is None):
        parser.error("--size is required for a file of open size, and not allowed for others.")
    size = arguments.size or (height, width)
    for path in arguments.images:
        picture = fitted(upright(path, channels), *size)
        outputs = model.run(model_input(picture, description))
        print(path)
        if description["task"] == "classify":
            print_classes(outputs, description)
        else:
            write_segmentation(outputs, description, picture, arguments.output / path.stem)


def upright(path, channels):
    """Opens an image file, turned upright, with 1, 3 or 4 channels of 8 bits."""
    if channels not in MODES:
        raise SystemExit(f"The model takes {channels} channels; image files have 1, 3 or 4.")
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SystemExit(f"{path} cannot be read as an image: {error}") from error
    if image.mode.startswith(("I", "F")):
        raise SystemExit(f"{path} has more than 8 bits a sample; save it with 8.")
    if image.has_transparency_data and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])


def fitted(image, height, width):
    """Returns the largest centered part of the model's aspect ratio, in the model's size."""
    box_width = min(image.width, image.height * width / height)
    box_height = min(image.height, image.width * height / width)
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    right, bottom = min(left + box_width, image.width), min(top + box_height, image.height)
    # Pillow's bilinear filter is antialiased: every pixel counts at any size.
    return image.resize((width, height), Image.Resampling.BILINEAR, (left, top, right, bottom))


def model_input(picture, description):
    """Returns the values to feed, float32 (height, width, channels)."""
    values = description["input"]
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1)
    return (pixels - values["mean"]) / values["std"]


def names_of_classes(count, description):
    return description["class_names"] or [str(index) for index in range(count)]


def print_classes(outputs, description):
    """Prints the three likeliest classes."""
    if "threshold" in description["output"]:  # one output, of two classes
        if description["output"]["activation"] == "linear":
            outputs = 1 / (1 + np.exp(-outputs))
        outputs = np.array([1 - outputs[0], outputs[0]])
    elif description["output"]["activation"] == "linear":
        outputs = np.exp(outputs - outputs.max())
        outputs = outputs / outputs.sum()
    names = names_of_classes(len(outputs), description)
    for index in np.argsort(-outputs, kind="stable")[:3]:
        print(f"  {outputs[index]:6.1%}  {names[index]}")


def write_segmentation(outputs, description, picture, stem):
    """Writes STEM_mask.png and STEM_overlay.png; prints the share of each class."""
    count = outputs.shape[-1]
    if count > 256:
        raise SystemExit(f"A PNG's palette has 256 colors, the model {count} classes.")
    # The mask covers the picture as the model saw it: the centered part, in the model's size.
    mask = Image.fromarray(outputs.argmax(-1).astype(np.uint8))
    mask = mask.resize(picture.size, Image.Resampling.NEAREST)
    colors = description["class_colors"] or some_colors(count)
    mask.putpalette(np.asarray(colors, np.uint8).tobytes())
    overlay = Image.blend(picture.convert("RGB"), mask.convert("RGB"), 0.5)
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind, image in (("mask", mask), ("overlay", overlay)):
        file = stem.with_name(f"{stem.name}_{kind}.png")
        image.save(file)
        print(f"  {file}")
    shares = np.bincount(np.asarray(mask).ravel(), minlength=count) / (mask.width * mask.height)
    names = names_of_classes(count, description)
    for index in np.argsort(-shares, kind="stable"):
        if shares[index]:
            print(f"  {shares[index]:6.1%}  {names[index]}")


def some_colors(count):
    """Colors for a model that has none: black, then colors that differ clearly."""
    return [[(37 * i) % 256, (101 * i) % 256, (173 * i) % 256] for i in range(count)]
