"""Where the time of a training step goes, on the backend that KERAS_BACKEND names.

    KERAS_BACKEND=tensorflow python benchmarks/training_step.py

Times the step of `train` beside steps that leave something out or run in another way, in turns, and
adds up the time of its operators by the framework's own profiler. Writes
`results/training_step/BACKEND/results.md`.
"""

import argparse
import collections
import re
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from tables import write_table

from dmformer_keras import DMFormerClassifier
from dmformer_keras.training import Recipe
from dmformer_keras.training.losses import SmoothedCrossEntropy
from dmformer_keras.training.optimization import compile_for

RESULTS = Path(__file__).parent / "results" / "training_step"
BACKEND = keras.backend.backend()
CLASSES = 10
MOST_OPERATORS = 15
# Not operators: what the profilers of TensorFlow and JAX write down beside them.
OVERHEAD = re.compile(r"::|^\$|^end: |Dispatch|__inference_")


def step_variants(args):
    """Returns {name: compiled model}, the step as it is first."""

    def model(metrics=("accuracy",), optimizer=None, precision="float32", **options):
        built = DMFormerClassifier.from_preset(
            args.preset, num_classes=CLASSES, load_head=False, activation="linear",
            input_shape=(args.image_size, args.image_size, 3), dtype=precision,
        )  # fmt: skip
        recipe = Recipe(image_size=args.image_size, batch_size=args.batch_size, clip_norm=1)
        loss = SmoothedCrossEntropy(0.1)
        compile_for(recipe, built, 1000, loss, list(metrics))
        if optimizer or options:
            built.compile(optimizer or built.optimizer, loss, metrics=list(metrics), **options)
        return built

    variants = {
        "as `train` runs it": model(),
        "without metrics": model(metrics=()),
        "SGD in place of clipping and AdamW": model(optimizer=keras.optimizers.SGD(1e-3)),
        "in mixed_bfloat16": model(precision="mixed_bfloat16"),
    }
    if BACKEND != "torch":
        variants["all steps of a call in one"] = model(steps_per_execution=args.steps)
    if BACKEND == "tensorflow":
        variants["compiled by XLA"] = model(jit_compile=True)
    return variants


def timed(model, images, labels, batch_size):
    """Seconds of all processors per step: the wall clock of a shared machine is not steady."""
    begin = time.process_time()
    model.fit(images, labels, batch_size=batch_size, shuffle=False, verbose=0)
    return (time.process_time() - begin) * batch_size / len(images)


def operators(call):
    """Returns {operator: nanoseconds} of a call, by the framework's profiler."""
    if BACKEND == "torch":
        import torch

        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call()
        return {
            event.key: 1000 * event.self_cpu_time_total
            for event in profile.key_averages()
            if event.key.startswith(("aten::", "mkldnn::")) or "Function" in event.key
        }
    from jax.profiler import ProfileData

    with tempfile.TemporaryDirectory() as folder:
        _trace(call, folder)
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(path))
    found = collections.Counter()
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if kind := _kind(event.name, line.name):
                    found[kind] += event.duration_ns
    return dict(found)


def _trace(call, folder):
    if BACKEND == "jax":
        import jax

        with jax.profiler.trace(folder):
            call()
    else:
        import tensorflow as tf

        with tf.profiler.experimental.Profile(folder):
            call()


def _kind(name, line):
    """The kind of operator of a profiler's event, or None."""
    if OVERHEAD.search(name):
        return None
    if BACKEND == "tensorflow":
        return name.rpartition(":")[2] if ":" in name else None
    return re.sub(r"[.\d]+$", "", name) if "Eigen" in line else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="dmformer_t", help="the model that trains")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    count = args.steps * args.batch_size
    images = rng.uniform(0, 255, (count, args.image_size, args.image_size, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, count)
    variants = step_variants(args)
    found = {name: [] for name in variants}
    for number in range(args.rounds + 1):
        for name, model in variants.items():
            seconds = timed(model, images, labels, args.batch_size)
            if number:  # the first round compiles
                found[name].append(seconds)
    first = np.array(next(iter(found.values())))
    rows = []
    for name, times in found.items():
        low, middle, high = np.quantile(first / np.array(times), (0.25, 0.5, 0.75))
        speed = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        rows.append([name, f"{1000 * np.median(times):.0f} ms", speed])
    as_it_is = next(iter(variants.values()))
    spent = operators(lambda: timed(as_it_is, images, labels, args.batch_size))
    total = sum(spent.values())
    most = collections.Counter(spent).most_common(MOST_OPERATORS)
    rows += [
        [
            f"operator `{name}`",
            f"{time_ / 1e6 / args.steps:.1f} ms",
            f"{100 * time_ / total:.1f} %",
        ]
        for name, time_ in most
    ]
    settings = (
        f"`{args.preset}` at {args.image_size}x{args.image_size}, batches of {args.batch_size}, "
        f"{BACKEND}; medians of {args.rounds} rounds of {args.steps} steps. The last column is the "
        "speed relative to the first line (quartiles), or an operator's share of "
        f"the {total / 1e6 / args.steps:.0f} ms of all operators."
    )
    heads = ["training step", "processor time", "relative speed, or share"]
    write_table(args.output / BACKEND, settings, heads, rows)


if __name__ == "__main__":
    main()
