"""Which recipe for few images? `few_images` beside `fine_tuning`, for an equal number of epochs.

    python benchmarks/few_images.py --data flowers/ pets/ --preset dmformer_t_mix

Draws some training images per class of each data set and up to 100 other images per class, and runs
`dmformer train` with both recipes on each draw. The other images are looked at once, after the last
epoch, so that they choose nothing. Finished runs under `--runs` are not trained again.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from jobs import check_names, check_same_settings, run_name, train_once, whole_folder
from probe import part_of, tested_part
from tables import write_table

from dmformer_keras.presets import read_preset

RESULTS = Path(__file__).parent / "results" / "few_images"
RECIPES = ("few_images", "fine_tuning")
PROBE = "few_images, its probe alone"


def write_draw(data, per_class, seed, folder):
    """Writes the images of a draw to train/ and val/ of a folder, without loss."""
    from PIL import Image

    parts = {"train": part_of(data, "train", per_class, seed), "val": tested_part(data, seed)}
    with whole_folder(folder) as beside:
        for split, source in parts.items():
            for index, label in enumerate(source.labels):
                path = beside / split / source.class_names[label] / f"{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(source.read(index)[0]).save(path, compress_level=1)


def train(recipe, draw, seed, args):
    """Trains on a draw by a recipe unless it was done; returns the report."""
    return train_once(
        draw / recipe, "--recipe", recipe, "--preset", args.preset, "--data", draw / "data",
        "--image-size", args.image_size, "--epochs", args.epochs,
        "--validate-every", args.epochs, "--seed", seed,
    )  # fmt: skip


def measured(data, seed, args):
    """Returns {row of the table: top-1} of one draw."""
    draw = args.runs / f"{Path(data).name}-{seed}"
    if not (draw / "data").is_dir():
        write_draw(data, args.images_per_class, seed, draw / "data")
    found = {}
    for recipe in RECIPES:
        report = train(recipe, draw, seed, args)
        if "probe" in report:
            found[PROBE] = report["probe"]["top1"]
        found[recipe] = report["validation"]["top1"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders or zips of class folders")
    parser.add_argument("--preset", required=True, help="a preset with weights")
    parser.add_argument("--images-per-class", type=int, default=60, help="training images")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2, help="draws of the images")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/few_images"), help="folder of the trainings"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    check_names(args.data)
    if not read_preset(args.preset).has_weights:
        parser.error(f"{args.preset} has no weights.")
    settings = {name: getattr(args, name) for name in ("images_per_class", "image_size", "epochs")}
    settings |= {"preset": run_name(args.preset), "backend": keras.config.backend()}
    check_same_settings(args.runs, settings)
    rows = {row: {} for row in (PROBE, *RECIPES)}
    for data in args.data:
        for seed in range(args.seeds):
            for row, top1 in measured(data, seed, args).items():
                rows[row].setdefault(Path(data).name, []).append(top1)
                print(f"{row}, {data}, draw {seed}: {top1:.2%}", flush=True)
    names = [Path(data).name for data in args.data]
    cells = [
        [row]
        + [
            f"{100 * np.mean(found[name]):.1f} ({', '.join(f'{100 * x:.1f}' for x in found[name])})"
            for name in names
        ]
        for row, found in rows.items()
    ]
    settings = (
        f"{args.images_per_class} training images per class, {args.image_size}x{args.image_size}, "
        f"{args.epochs} epochs from `{args.preset}`; top-1 in %, mean (each draw)."
    )
    write_table(args.output, settings, ["recipe", *names], cells)


if __name__ == "__main__":
    main()
