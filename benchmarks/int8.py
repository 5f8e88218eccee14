"""Measures what int8 saves in TFLite: latency and size beside float32, in turns.

    python benchmarks/int8.py                       N and T at 224x224, two threads
    python benchmarks/int8.py --image-size 64 --models dmformer_n --rounds 3

Weights and the statistics of norms are random: latency does not depend on them, and size
only where they are equal, as the zeros of an untrained model are. Writes
`results/int8/results.json` and `results.md`.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dmformer_keras import DMFormerClassifier
from dmformer_keras.export import load_exported, to_tflite
from dmformer_keras.system.files import written_whole
from dmformer_keras.system.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "int8"


def export(name, image_size, folder):
    """Returns the loaded files of a model, {"float32": ExportedModel, "int8": ...}."""
    model = DMFormerClassifier.from_preset(
        name, num_classes=1000, input_shape=(image_size, image_size, 3)
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("beta", "bias", "moving_mean"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    images = rng.uniform(0, 255, (8, image_size, image_size, 3))
    paths = {
        "float32": to_tflite(model, folder / f"{name}.tflite", verify=False),
        "int8": to_tflite(
            model,
            folder / f"{name}_int8.tflite",
            "int8",
            representative_data=images,
            verify=False,
        ),
    }
    return paths


def measure(paths, image, threads, rounds, seconds):
    """Returns the milliseconds per image of each file in each round, the files taking turns.

    Args:
        paths: {key: Path of an exported file}.
        image: array (1, height, width, channels).
        threads: int.
        rounds: int.
        seconds: float, how long a file is run in a round: at least one image.
    """
    files = {precision: load_exported(path, threads) for precision, path in paths.items()}
    milliseconds = {precision: [] for precision in files}
    for file in files.values():
        file.predict_on_batch(image)
    for number in range(rounds):
        order = list(files) if number % 2 == 0 else list(files)[::-1]
        for precision in order:
            count, start = 0, time.perf_counter()
            while not count or time.perf_counter() - start < seconds:
                files[precision].predict_on_batch(image)
                count += 1
            milliseconds[precision].append(1000 * (time.perf_counter() - start) / count)
    return milliseconds


def summary(name, paths, milliseconds):
    """Returns one model's line as JSON values."""
    ratios = np.divide(milliseconds["int8"], milliseconds["float32"])
    sizes = {precision: path.stat().st_size for precision, path in paths.items()}
    return {
        "model": name,
        "milliseconds": {key: float(np.median(value)) for key, value in milliseconds.items()},
        "latency_ratio": float(np.median(ratios)),
        "latency_ratio_quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
        "bytes": sizes,
        "size_ratio": sizes["int8"] / sizes["float32"],
        "rounds": milliseconds,
    }


def write(folder, lines, command, machine):
    """Writes the results as JSON and as a table."""
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "results.json") as path:
        content = {"command": command, "machine": machine, "models": lines}
        path.write_text(json.dumps(content, indent=1) + "\n")
    text = (
        "| model | float32, ms | int8, ms | int8 over float32 (quartiles) | size of int8 |\n"
        "|---|---|---|---|---|\n"
    )
    for line in lines:
        first, last = line["latency_ratio_quartiles"]
        text += (
            f"| `{line['model']}` | {line['milliseconds']['float32']:.1f} | "
            f"{line['milliseconds']['int8']:.1f} | {line['latency_ratio']:.2f} "
            f"({first:.2f} to {last:.2f}) | {line['bytes']['int8'] / 1e6:.2f} of "
            f"{line['bytes']['float32'] / 1e6:.2f} MB, {line['size_ratio']:.3f} |\n"
        )
    text += f"\nMade by `{command}`\n"
    with written_whole(folder / "results.md") as path:
        path.write_text(text)
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["dmformer_n", "dmformer_t"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.5, help="time for a file in a round")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    args = parser.parse_args()
    command = shlex.join(["python", "benchmarks/int8.py", *sys.argv[1:]])
    lines = []
    image = np.random.default_rng(1).uniform(0, 255, (1, args.image_size, args.image_size, 3))
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            paths = export(name, args.image_size, Path(folder))
            milliseconds = measure(paths, image, args.threads, args.rounds, args.seconds)
            lines.append(summary(name, paths, milliseconds))
    write(args.output, lines, command, describe_machine(args.threads))


if __name__ == "__main__":
    main()
