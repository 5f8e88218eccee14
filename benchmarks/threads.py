"""Measures how many images per second one loaded file predicts for 1, 2 and 4 threads at once.

    python benchmarks/threads.py dmformer_n_imagenette

Each call predicts one image, and each runtime computes it on one thread (a SavedModel on all, one
image at a time). Runtimes and numbers of threads take turns. Writes `results/threads/results.md`.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tables import write_table

import dmformer_keras
from dmformer_keras.export import load_exported, to_onnx, to_openvino, to_saved_model, to_tflite

RESULTS = Path(__file__).parent / "results" / "threads"
FILES = {
    "TFLite": (to_tflite, "model.tflite"),
    "ONNX Runtime": (to_onnx, "model.onnx"),
    "OpenVINO": (to_openvino, "model.xml"),
    "SavedModel": (to_saved_model, "served"),
}
THREADS = (1, 2, 4)


def images_per_second(file, image, threads, calls):
    """The throughput of one file that is called from several threads at once."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: file.predict_on_batch(image), range(2 * threads)))  # warm
        start = time.perf_counter()
        list(pool.map(lambda _: file.predict_on_batch(image), range(calls)))
        return calls / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what dmformer_keras.load takes")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=48, help="images per round (default: 48)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    args = parser.parse_args()
    model = dmformer_keras.load(args.model)
    shape = (1, *model.input.shape[1:])
    image = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: load_exported(convert(model, Path(folder) / path, verify=False), threads=1)
            for name, (convert, path) in FILES.items()
        }
        for _ in range(args.rounds):
            for name, file in files.items():
                for threads in THREADS:
                    speed = images_per_second(file, image, threads, args.calls)
                    found.setdefault((name, threads), []).append(speed)
    rows = []
    for name in FILES:
        cells = [f"{np.median(found[name, threads]):.1f}" for threads in THREADS]
        ratio = np.divide(found[name, THREADS[1]], found[name, 1])
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
        rows.append([name, *cells, f"{middle:.2f} ({low:.2f} to {high:.2f})"])
    height, width = shape[1:3]
    heads = ["images per second", *(f"threads: {threads}" for threads in THREADS)]
    heads.append("2 over 1 (quartiles)")
    settings = (
        f"`{Path(args.model).name}`, float32, {height}x{width}, one image per call, medians of "
        f"{args.rounds} rounds."
    )
    write_table(args.output, settings, heads, rows)


if __name__ == "__main__":
    main()
