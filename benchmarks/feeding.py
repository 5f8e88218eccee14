"""How fast training is fed with images, and what share of a step's time that takes.

    python benchmarks/feeding.py --data photos/ --image-size 64

For images read from their files in every epoch, kept decoded in memory and kept in a folder, by
turns: images per second of the batches alone, with no model; and of training steps, beside those of
steps on one and the same batch, which is fed at no cost. The share of the time that these save is
the share that feeding takes.
"""

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dmformer_keras import DMFormerClassifier
from dmformer_keras.data import open_source
from dmformer_keras.data.cache import MEMORY, cached
from dmformer_keras.system.files import written_whole
from dmformer_keras.system.machine import describe_machine, machine_sentence
from dmformer_keras.training import Recipe
from dmformer_keras.training.batches import training_batches
from dmformer_keras.training.losses import SmoothedCrossEntropy
from dmformer_keras.training.optimization import compile_for

RESULTS = Path(__file__).parent / "results" / "feeding"
READ_AHEAD_SECONDS = 2  # enough to use up what was read ahead


class Feed:
    """The batches of one source, and how fast they come and are trained on."""

    def __init__(self, source, recipe, steps):
        size = (recipe.image_size,) * 2
        batches = training_batches(source, recipe, size, 0)
        # TensorFlow's tensors as arrays, which every backend takes.
        by_tensorflow = hasattr(batches, "as_numpy_iterator")
        self.batches = batches.as_numpy_iterator() if by_tensorflow else iter(batches)
        self.batch_size, self.steps = recipe.batch_size, steps

    def alone(self):
        """Images per second of the batches, with no model."""
        # First without a clock: a pipeline has read batches ahead, which come at no cost.
        started = time.perf_counter()
        while time.perf_counter() - started < READ_AHEAD_SECONDS:
            next(self.batches)
        return self._timed(lambda: next(self.batches))

    def trained(self, model):
        """Images per second of training steps on these batches."""
        return self._timed(lambda: model.train_on_batch(*next(self.batches)))

    def repeated(self, model):
        """Images per second of training steps on one batch."""
        batch = next(self.batches)
        return self._timed(lambda: model.train_on_batch(*batch))

    def _timed(self, step):
        started = time.perf_counter()
        for _ in range(self.steps):
            step()
        return self.steps * self.batch_size / (time.perf_counter() - started)


def trained_model(preset, source, recipe):
    """The model of a preset, compiled as `train` does it."""
    model = DMFormerClassifier.from_preset(
        preset,
        num_classes=len(source.class_names),
        load_head=False,
        activation="linear",
        input_shape=(recipe.image_size, recipe.image_size, source.channels),
    )
    compile_for(recipe, model, 1000, SmoothedCrossEntropy(0.1), [])
    return model


def measured(feeds, model, rounds):
    """{source: {figure: list of images per second}}, each round in another order."""
    found = {name: {"alone": [], "trained": [], "repeated": []} for name in feeds}
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):
        for name in rng.permutation(list(feeds)):
            feed = feeds[name]
            figures = feed.alone(), feed.trained(model), feed.repeated(model)
            if number:  # the first round compiles and fills what is read ahead
                for figure, value in zip(found[name], figures, strict=True):
                    found[name][figure].append(value)
    return found


def table(found):
    """The medians as Markdown, after ± half the distance between the quartiles."""
    text = (
        "| images from | feeding alone, images/s | training, images/s | share of a step's time "
        "that feeding takes |\n|---|---:|---:|---:|\n"
    )
    for name, figures in found.items():
        share = 100 * (1 - np.array(figures["trained"]) / np.array(figures["repeated"]))
        cells = [_with_spread(figures["alone"]), _with_spread(figures["trained"])]
        text += f"| {name} | {' | '.join(cells)} | {_with_spread(share)} % |\n"
    return text


def _with_spread(values):
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:,.0f} ± {(high - low) / 2:,.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder or zip of class folders")
    parser.add_argument("--preset", default="dmformer_n", help="the model that trains")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="per round and figure")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    recipe = Recipe(image_size=args.image_size, batch_size=args.batch_size)
    source, size = open_source(args.data, "train"), (args.image_size,) * 2
    with tempfile.TemporaryDirectory() as folder:
        sources = {
            "files": source,
            "memory": cached(source, size, MEMORY),
            "a folder": cached(source, size, folder),
        }
        feeds = {name: Feed(one, recipe, args.steps) for name, one in sources.items()}
        found = measured(feeds, trained_model(args.preset, source, recipe), args.rounds)
    command = shlex.join(["python", "benchmarks/feeding.py", *sys.argv[1:]])
    text = (
        f"`{command}`\n\n{machine_sentence(describe_machine(threads=None))}\n\n"
        f"{len(source):,} images, {args.preset} at {args.image_size}x{args.image_size}, batches of "
        f"{args.batch_size}; medians of {args.rounds} rounds.\n\n{table(found)}"
    )
    args.output.mkdir(parents=True, exist_ok=True)
    with written_whole(args.output / "results.md") as path:
        path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
