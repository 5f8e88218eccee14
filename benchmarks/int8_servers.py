"""Measures what int8 costs in accuracy and saves in latency in ONNX Runtime and OpenVINO.

    python benchmarks/int8_servers.py dmformer_n_imagenette --data imagenette_160.zip
    python benchmarks/int8_servers.py dmformer_t_camvid --data camvid_360x480.zip \\
        --image-size 360x480

Training images are the representative data. The accuracy is of the whole split; latency is
measured in turns, an image at a time. Writes `results/int8_servers/MODEL/results.md`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from int8 import measure
from tables import write_table

import dmformer_keras
from dmformer_keras.data import open_source
from dmformer_keras.export import load_exported, to_onnx, to_openvino
from dmformer_keras.system.machine import cpu_flags
from dmformer_keras.training import evaluate, evaluate_segmenter, is_segmenter

RESULTS = Path(__file__).parent / "results" / "int8_servers"
RUNTIMES = {"ONNX Runtime": (to_onnx, ".onnx"), "OpenVINO": (to_openvino, ".xml")}
PRECISIONS = ("float32", "int8")
# What makes products of 8 bits faster than those of floats, on processors of this kind.
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")


def converted(model, source, folder):
    """Returns {(runtime, precision): path}."""
    paths = {}
    for runtime, (convert, suffix) in RUNTIMES.items():
        for precision in PRECISIONS:
            options = {}
            if precision == "int8":
                options = {"quantization": "int8", "representative_data": source}
            path = folder / f"{convert.__name__}_{precision}{suffix}"
            paths[runtime, precision] = convert(model, path, verify=False, **options)
    return paths


def accuracy(path, source):
    """Top-1, or mIoU of a segmenter, of a file on a whole split."""
    file = load_exported(path)
    if is_segmenter(file):
        return evaluate_segmenter(file, source).miou
    return evaluate(file, source).top1


def size(path):
    """The bytes of a file, with those of the weights beside it."""
    return sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.is_file())


def row(key, paths, source, milliseconds):
    """The cells of one file."""
    runtime, precision = key
    ratios = np.divide(milliseconds[key], milliseconds[runtime, "float32"])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return [
        f"{runtime}, {precision}",
        f"{100 * accuracy(paths[key], source):.2f} %",
        f"{size(paths[key]) / 1e6:.2f} MB",
        f"{np.median(milliseconds[key]):.1f} ms",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what dmformer_keras.load takes")
    parser.add_argument("--data", required=True, help="what open_source takes")
    parser.add_argument("--split", default="val", help="split to measure on (default: val)")
    parser.add_argument("--image-size", help="HxW, for a model of any size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    args = parser.parse_args()
    side = args.image_size and tuple(int(side) for side in args.image_size.split("x"))
    model = dmformer_keras.load(args.model, side)
    metric = "mIoU" if is_segmenter(model) else "top-1"
    options = {"task": "segment" if is_segmenter(model) else "classify", "channels": 3}
    source = open_source(args.data, args.split, **options)
    shape = model.input.shape[1:3]
    image = dmformer_keras.data.resize_image(source.read(0)[0], shape)[None].astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        training = open_source(args.data, "train", **options)
        paths = converted(model, training, Path(folder))
        milliseconds = measure(paths, image, args.threads, args.rounds, seconds=0)
        rows = [row(key, paths, source, milliseconds) for key in paths]
    found = [name for name in INSTRUCTIONS if name in cpu_flags()] or ["none"]
    settings = (
        f"{len(source):,} images of the split `{args.split}` at {shape[0]}x{shape[1]}; threads for "
        f"latency: {args.threads}; instructions for 8 bits: {', '.join(found)}."
    )
    name = Path(args.model).name
    heads = [f"`{name}`", metric, "size", "latency", "of float32 (quartiles)"]
    write_table(args.output / name, settings, heads, rows)


if __name__ == "__main__":
    main()
