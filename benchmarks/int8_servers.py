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
from converters import accuracy, add_arguments, opened
from int8 import measure
from tables import write_table

from dmformer_keras.export import load_exported, to_onnx, to_openvino
from dmformer_keras.system.machine import cpu_flags
from dmformer_keras.training import is_segmenter

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
        f"{100 * accuracy(load_exported(paths[key]), source):.2f} %",
        f"{size(paths[key]) / 1e6:.2f} MB",
        f"{np.median(milliseconds[key]):.1f} ms",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, RESULTS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    model, training, source, image = opened(args)
    with tempfile.TemporaryDirectory() as folder:
        paths = converted(model, training, Path(folder))
        milliseconds = measure(paths, image, args.threads, args.rounds, seconds=0)
        rows = [row(key, paths, source, milliseconds) for key in paths]
    found = [name for name in INSTRUCTIONS if name in cpu_flags()] or ["none"]
    height, width = image.shape[1:3]
    settings = (
        f"{len(source):,} images of the split `{args.split}` at {height}x{width}; threads for "
        f"latency: {args.threads}; instructions for 8 bits: {', '.join(found)}."
    )
    name = Path(args.model).name
    metric = "mIoU" if is_segmenter(model) else "top-1"
    heads = [f"`{name}`", metric, "size", "latency", "of float32 (quartiles)"]
    write_table(args.output / name, settings, heads, rows)


if __name__ == "__main__":
    main()
