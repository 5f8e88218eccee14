"""Does Muon or a teacher train a better small model? Each beside AdamW on the labels alone.

    python benchmarks/training_trials.py --data imagenette_160.zip

All start from random weights and see the same images for the same number of epochs, with the same
seeds. `muon` trains the kernels of ordinary and 1x1 convolutions with Muon; `taught` also learns
from the stored outputs of `--teacher`, which saw whole images, and `taught_live`, which takes
several times as long, from a teacher that sees every crop. Validation images are looked at once,
after the last epoch. Finished runs under `--runs` are not trained again, an interrupted one is
resumed, and `results.md` is written after every run.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from jobs import check_same_settings, side_by_side
from tables import write_table

from dmformer_keras.training import Recipe, train
from dmformer_keras.training.checkpoint import resumable_epoch

RESULTS = Path(__file__).parent / "results" / "training_trials"
TRIALS = ("adamw", "muon", "taught", "taught_live")


def run(args, trial, seed):
    """Trains one model, or goes on with its training."""
    folder = args.runs / f"{trial}-{seed}"
    rate = args.muon_learning_rate if trial == "muon" else args.learning_rate
    recipe = Recipe(
        epochs=args.epochs, image_size=args.image_size, batch_size=args.batch_size, seed=seed,
        optimizer="muon" if trial == "muon" else "adamw", learning_rate=rate, clip_norm=1.0,
        validate_every=args.epochs,
    )  # fmt: skip
    teaching = {"teacher": args.teacher} if trial.startswith("taught") else {}
    if trial == "taught":
        teaching["teacher_cache"] = args.runs / "answers"
    train(
        recipe, args.preset, args.data, folder, cache="memory", verbose=2,
        resume=resumable_epoch(folder) is not None, **teaching,
    )  # fmt: skip


def train_all(args):
    """Trains what has not finished, `--jobs` processes at a time."""

    def train_one(one, environment):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", *map(str, one)]
        with open(args.runs / f"{one[0]}-{one[1]}.log", "a") as log:
            subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True
            )
        write_results(args)

    finished = finished_runs(args)
    missing = [
        (trial, seed)
        for seed in range(args.seeds)  # every trial once, before any twice
        for trial in args.trials
        if (trial, seed) not in finished
    ]
    args.runs.mkdir(parents=True, exist_ok=True)
    side_by_side(train_one, missing, args.jobs)


def finished_runs(args):
    """{(trial, seed): report} of what is there."""
    paths = {
        (trial, seed): args.runs / f"{trial}-{seed}" / "report.json"
        for seed in range(args.seeds)
        for trial in args.trials
    }
    return {key: json.loads(path.read_text()) for key, path in paths.items() if path.is_file()}


def write_results(args):
    """Writes the table of all finished runs."""
    found = finished_runs(args)
    titles = {
        "adamw": "AdamW, labels alone",
        "muon": f"Muon and AdamW, labels alone, learning rate {args.muon_learning_rate:g}",
        "taught": f"AdamW, taught by `{Path(args.teacher).name}`",
        "taught_live": f"AdamW, `{Path(args.teacher).name}` sees every crop",
    }
    rows = []
    for trial in args.trials:
        top1 = [
            100 * found[trial, seed]["validation"]["top1"] if (trial, seed) in found else None
            for seed in range(args.seeds)
        ]
        done = [value for value in top1 if value is not None]
        if done:
            each = ["not run" if value is None else f"{value:.2f}" for value in top1]
            rows.append([titles[trial], *each, f"{np.mean(done):.2f}"])
    report = next(iter(found.values()))
    settings = (
        f"`{args.preset}` from random weights at {args.image_size}x{args.image_size}, "
        f"{args.epochs} epochs of {report['training_images']:,} images, batches of "
        f"{args.batch_size}, learning rate {args.learning_rate:g} unless another is named; top-1 "
        f"in % on {report['validation']['examples']:,} validation images after the last epoch."
    )
    heads = ["training", *(f"seed {seed}" for seed in range(args.seeds)), "mean"]
    write_table(args.output, settings, heads, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labeled images, as `dmformer train` takes")
    parser.add_argument("--preset", default="dmformer_n", help="what is trained, without weights")
    parser.add_argument("--teacher", default="dmformer_t_imagenette")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--muon-learning-rate", type=float, default=5e-3)
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS[:3]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/training_trials"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a process of a single run
    args = parser.parse_args()
    if args.one:
        run(args, args.one[0], int(args.one[1]))
        return
    compared = ("preset", "image_size", "epochs", "batch_size", "learning_rate")
    settings = {name: getattr(args, name) for name in (*compared, "muon_learning_rate")}
    settings |= {"data": Path(args.data).name, "teacher": Path(args.teacher).name}
    check_same_settings(args.runs, settings | {"backend": keras.config.backend()})
    train_all(args)
    write_results(args)


if __name__ == "__main__":
    main()
