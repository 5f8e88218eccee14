"""Compares the two converters of `to_tflite` on real images: operators, size, accuracy, latency.

    pip install ".[tensorflow,litert]" torch==2.13.0
    python benchmarks/converters.py dmformer_n_imagenette --data imagenette_160.zip
    python benchmarks/converters.py dmformer_t_camvid --data camvid_360x480.zip --image-size 360x480

Writes `results/converters/MODEL.json` and `MODEL.md`. The accuracy is of the whole split; latency
is measured in turns, an image at a time.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from int8 import measure

import dmformer_keras
from dmformer_keras.data import open_source, resize_image
from dmformer_keras.export import load_exported, to_tflite
from dmformer_keras.export.tflite import CONVERTERS
from dmformer_keras.system.files import written_whole
from dmformer_keras.system.machine import describe_machine
from dmformer_keras.training import evaluate, evaluate_segmenter, is_segmenter

RESULTS = Path(__file__).parent / "results" / "converters"
PRECISIONS = (None, "int8")


def add_arguments(parser, results):
    """Adds what every comparison of a model's files on real images is asked."""
    parser.add_argument("model", help="what dmformer_keras.load takes")
    parser.add_argument("--data", required=True, help="what open_source takes")
    parser.add_argument("--split", default="val", help="split to measure on (default: val)")
    parser.add_argument("--image-size", help="HxW, for a model of any size")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--output", type=Path, default=results, help="folder to write to")


def opened(args):
    """Returns the model, the training images, the images to measure on, and one of them as a batch
    of the model's size.
    """
    size = args.image_size and tuple(int(side) for side in args.image_size.split("x"))
    model = dmformer_keras.load(args.model, size)
    options = {"task": "segment" if is_segmenter(model) else "classify", "channels": 3}
    training, source = (open_source(args.data, split, **options) for split in ("train", args.split))
    image = resize_image(source.read(0)[0], model.input.shape[1:3])
    return model, training, source, image[None].astype("float32")


def accuracy(file, source):
    """Top-1, or mIoU of a segmenter, of a loaded file on a whole split."""
    if is_segmenter(file):
        return evaluate_segmenter(file, source).miou
    return evaluate(file, source).top1


def converted(model, source, folder):
    """Returns {(precision, converter): (path, seconds that the conversion took)}."""
    files = {}
    for precision in PRECISIONS:
        for converter in CONVERTERS:
            options = {"converter": converter, "verify": False}
            if precision == "int8":
                options["representative_data"] = source
            path = folder / f"{precision or 'float32'}_{converter}.tflite"
            start = time.perf_counter()
            to_tflite(model, path, precision, **options)
            files[precision or "float32", converter] = path, time.perf_counter() - start
    return files


def line(path, seconds, source, milliseconds, first):
    """Returns one file's figures as JSON values; `first` has the latencies to compare with."""
    file = load_exported(path)
    ratios = np.divide(milliseconds, first)
    return {
        "operators": sum(file.operators().values()),
        "bytes": path.stat().st_size,
        "conversion_seconds": seconds,
        "mean_iou" if is_segmenter(file) else "top1": accuracy(file, source),
        "milliseconds": float(np.median(milliseconds)),
        "ratio_to_first": float(np.median(ratios)),
        "ratio_quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
    }


def table(name, lines, command):
    """The lines as a Markdown table."""
    metric = "mean_iou" if "mean_iou" in next(iter(lines.values())) else "top1"
    rows = [
        f"| {precision} | `{converter}` | {found['operators']} | {found['bytes'] / 1e6:.2f} MB | "
        f"{100 * found[metric]:.2f} % | {found['milliseconds']:.1f} ms | "
        f"{found['ratio_to_first']:.2f} ({found['ratio_quartiles'][0]:.2f} to "
        f"{found['ratio_quartiles'][1]:.2f}) | {found['conversion_seconds']:.0f} s |"
        for (precision, converter), found in lines.items()
    ]
    title = {"mean_iou": "mIoU", "top1": "top-1"}[metric]
    head = (
        f"| `{name}` | converter | operators | size | {title} | one thread | of TensorFlow's "
        "(quartiles) | conversion |\n|---|---|---:|---:|---:|---:|---:|---:|\n"
    )
    return head + "\n".join(rows) + f"\n\nMade by `{command}`\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, RESULTS)
    args = parser.parse_args()
    model, training, source, image = opened(args)
    with tempfile.TemporaryDirectory() as folder:
        files = converted(model, training, Path(folder))
        paths = {key: path for key, (path, _) in files.items()}
        milliseconds = measure(paths, image, threads=1, rounds=args.rounds, seconds=0)
        lines = {
            key: line(*files[key], source, times, milliseconds[key[0], "tensorflow"])
            for key, times in milliseconds.items()
        }
    command = shlex.join(["python", "benchmarks/converters.py", *sys.argv[1:]])
    content = {"command": command, "machine": describe_machine(1)}
    content["files"] = {" ".join(key): found for key, found in lines.items()}
    args.output.mkdir(parents=True, exist_ok=True)
    name = Path(args.model).name
    with written_whole(args.output / f"{name}.json") as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = table(name, lines, command)
    with written_whole(args.output / f"{name}.md") as path:
        path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
