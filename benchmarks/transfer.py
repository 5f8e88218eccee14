"""What are weights worth on other images? Linear probes and fine-tuning, at an equal budget.

    python benchmarks/transfer.py --data flowers/ pets/ cifar10_jpeg.zip \\
        --presets dmformer_t_mix runs/imagenette_alone random efficientnet-lite0

Takes up to 500 training images per class of each data set (of CIFAR-10 a tenth), the same for all,
and runs `dmformer train --recipe fine_tuning --probe` on them from each preset, with each seed:
first the best linear head on the frozen features, whose accuracy is the probe's, then ten epochs of
all weights. Both are measured on all test images, or on a tenth held out where there are none, and
no epoch is chosen by them. "random" stands for random weights of `--architecture`, which are
trained with a random head; "efficientnet-lite0", the yardstick, is probed only: see `probe.py`.
Finished runs and probes under `--runs` are not done again.
"""

import argparse
import dataclasses
from pathlib import Path

import keras
import numpy as np
from jobs import (
    check_names,
    check_presets,
    check_same_settings,
    measured_once,
    run_name,
    train_once,
    whole_folder,
)
from probe import YARDSTICK, efficientnet_top1, tested_split, top1_of
from tables import mean_cell, write_table

from dmformer_keras.data import open_source
from dmformer_keras.training import Recipe

RESULTS = Path(__file__).parent / "results" / "transfer"
RECIPE = "fine_tuning"


def parts_of(data):
    """The sources of the training images, and the one that is measured on."""
    tested = tested_split(data)
    # Where there is no folder val/, `val` is a tenth held out of the training images.
    trained = ("train", "val") if tested == "test" else ("train",)
    return [open_source(data, split) for split in trained], open_source(data, tested)


def take_part(data, per_class, folder):
    """Writes up to `per_class` training images of each class, and all test images, to a folder."""
    from PIL import Image

    rng = np.random.default_rng(0)
    train, test = parts_of(data)
    with whole_folder(folder) as beside:
        # What is measured on is `val`, for `dmformer train` to look at it.
        for split, sources, most in (("train", train, per_class), ("val", [test], None)):
            for label, name in enumerate(test.class_names):
                own = [
                    (source, int(index))
                    for source in sources
                    for index in np.flatnonzero(source.labels == label)
                ]
                (beside / split / name).mkdir(parents=True)
                for number in rng.permutation(len(own))[:most]:
                    source, index = own[number]
                    image = Image.fromarray(source.read(index)[0])
                    # Without loss: what was lost once is not lost again.
                    image.save(beside / split / name / f"{number:06d}.png", compress_level=1)


def check_settings(args):
    """Ends the program if the presets do not compare, or the runs that are there are of others."""
    check_names(args.data)
    trained = [name for name in args.presets if name not in ("random", YARDSTICK)]
    check_presets(trained, args.architecture)
    compared = ("architecture", "images_per_class", "epochs", "image_size", "precision")
    settings = {name: getattr(args, name) for name in compared}
    settings["recipe"] = dataclasses.asdict(Recipe.named(RECIPE))
    settings["backend"] = keras.config.backend()
    check_same_settings(args.runs, settings)


def train(start, seed, args, data, output):
    """Fine-tunes one preset with one seed unless it was done; returns the report."""
    options = [
        "--preset", args.architecture if start == "random" else start, "--data", data,
        "--recipe", RECIPE, "--epochs", args.epochs,
        # Once, at the end: no epoch is chosen by the images that are measured on.
        "--validate-every", args.epochs, "--precision", args.precision,
        "--image-size", args.image_size, "--seed", seed, "--cache", "memory",
    ]  # fmt: skip
    if start != "random":  # whose features are worth no head to begin with
        options.append("--probe")
    return train_once(output, *options)


def measured(start, data, args):
    """Returns {"probe": top-1 with each seed, "fine-tuned": the same} of one preset."""
    part = args.runs / Path(data).name / "data"
    if not part.is_dir():
        part.parent.mkdir(parents=True, exist_ok=True)
        take_part(data, args.images_per_class, part)
    sources = [open_source(part, split) for split in ("train", "val")]
    if start == YARDSTICK:
        found = measured_once(
            part.parent / f"{YARDSTICK}-probe.json",
            lambda: efficientnet_top1(*sources, args.image_size),
        )
        return {"probe": [found]}
    top1 = {"probe": [], "fine-tuned": []}
    for seed in range(args.seeds):
        run = part.parent / f"{run_name(start)}-{seed}"
        report = train(start, seed, args, part, run)
        if start == "random":
            probed = measured_once(
                run.with_name(f"{run.name}-probe.json"),
                lambda seed=seed: random_top1(args, seed, sources),
            )
        else:
            probed = report["probe"]["top1"]
        top1["probe"].append(probed)
        top1["fine-tuned"].append(report["validation"]["top1"])
    return top1


def random_top1(args, seed, sources):
    """The top-1 accuracy of a linear head on the features of random weights."""
    keras.utils.set_random_seed(seed)
    return top1_of("random", args.architecture, *sources, args.image_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="zips or folders")
    parser.add_argument(
        "--presets", nargs="+", required=True, help="presets with weights, or random"
    )
    parser.add_argument("--architecture", default="dmformer_t", help="architecture of `random`")
    parser.add_argument(
        "--images-per-class", type=int, default=500, help="training images, at most"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/transfer"), help="folder of the trainings"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    check_settings(args)
    heads, rows = ["start"], {start: [Path(start).name] for start in args.presets}
    for data in args.data:
        heads += [f"{Path(data).name}, probe", f"{Path(data).name}, fine-tuned"]
        for start in args.presets:
            found = measured(start, data, args)
            for kind in ("probe", "fine-tuned"):
                rows[start].append(mean_cell(found.get(kind)))
                print(f"{start}, {data}, {kind}: {rows[start][-1]}", flush=True)
    settings = (
        f"Up to {args.images_per_class} training images per class, {args.epochs} epochs at "
        f"{args.image_size}x{args.image_size}, {args.precision}; top-1 on the test images in %, "
        "mean (each seed)."
    )
    write_table(args.output, settings, heads, list(rows.values()))


if __name__ == "__main__":
    main()
