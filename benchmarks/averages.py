"""Which BatchNorm statistics belong to averaged weights? Compares the three answers.

    python benchmarks/averages.py --data imagenette_160.zip
    python benchmarks/averages.py --data digits --image-size 32 --epochs 4 --learning-rate 3e-3 \\
        --ema 0.99 --augmentation light --channels 1

One training per seed; the averaged weights of its last epoch are measured on the validation images
with the statistics of the raw weights, with a moving average of those (as timm keeps it) and with
statistics estimated anew on training images (as `--ema` does). Writes
`results/averages/DATA/results.md`.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
from tables import write_table

from dmformer_keras.data import open_source
from dmformer_keras.training import Recipe, evaluate, train
from dmformer_keras.training.averaging import (
    averaged_weights,
    estimate_statistics,
    statistics_set,
    statistics_values,
)

RESULTS = Path(__file__).parent / "results" / "averages"
BATCHES = 8  # for new statistics, of as many images as training takes for a batch


class Comparison(keras.callbacks.Callback):
    """Averages statistics beside the training, and measures all three after the last epoch."""

    def __init__(self, recipe, train_images, validation):
        super().__init__()
        self.recipe, self.train_images, self.validation = recipe, train_images, validation
        self.average, self.updates, self.found = None, 0, {}

    def on_train_batch_end(self, batch, logs=None):
        values = statistics_values(self.model)
        self.updates += 1
        # The same warm-up as that of the weights' average.
        momentum = min(self.recipe.ema, (1 + self.updates) / (10 + self.updates))
        if self.average is None:
            self.average = values
        self.average = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(self.average, values, strict=True)
        ]

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 < self.recipe.epochs:
            return
        raw = statistics_values(self.model)
        self.found["raw weights"] = self._top1()
        with averaged_weights(self.model), statistics_set(self.model, raw):
            self.found["raw statistics"] = self._top1()
            with statistics_set(self.model, self.average):
                self.found["averaged statistics"] = self._top1()
            estimate_statistics(self.model, self.train_images)
            self.found["estimated statistics"] = self._top1()

    def _top1(self):
        return 100 * evaluate(self.model, self.validation).top1


def batches(recipe, source):
    """Some batches of training images, changed as in training."""
    rng = np.random.default_rng(recipe.seed)
    count = min(BATCHES * recipe.batch_size, len(source))
    size = (recipe.image_size, recipe.image_size)
    images = np.stack([
        recipe.changes.apply(source.read(int(index))[0], size, rng)
        for index in rng.choice(len(source), count, replace=False)
    ]).astype("float32")  # fmt: skip
    return np.array_split(images, BATCHES)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what open_source takes")
    parser.add_argument("--preset", default="dmformer_n")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--augmentation", default="standard")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    args = parser.parse_args()
    source, validation = (
        open_source(args.data, split, channels=args.channels) for split in ("train", "val")
    )
    columns = {}
    for seed in range(args.seeds):
        recipe = Recipe(
            epochs=args.epochs, image_size=args.image_size, batch_size=args.batch_size,
            learning_rate=args.learning_rate, ema=args.ema, augmentation=args.augmentation,
            channels=args.channels, seed=seed,
        )  # fmt: skip
        comparison = Comparison(recipe, batches(recipe, source), validation)
        with tempfile.TemporaryDirectory() as folder:
            train(
                recipe, args.preset, args.data, folder, cache="memory",
                callbacks=[comparison], verbose=2,
            )  # fmt: skip
        columns[f"seed {seed}"] = comparison.found
    rows = [
        [
            name,
            *(f"{found[name]:.2f} %" for found in columns.values()),
            f"{np.mean([found[name] for found in columns.values()]):.2f} %",
        ]
        for name in next(iter(columns.values()))
    ]
    settings = (
        f"`{args.preset}` from random weights at {args.image_size}x{args.image_size}, "
        f"{args.epochs} epochs of {len(source):,} images, moving average {args.ema}; "
        f"top-1 on {len(validation):,} validation images after the last epoch."
    )
    folder = args.output / Path(args.data).stem
    write_table(folder, settings, ["weights", *columns, "mean"], rows)


if __name__ == "__main__":
    main()
