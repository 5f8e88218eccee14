"""Do shipped weights help on other images? Fine-tuning beside random weights, at an equal budget.

    python benchmarks/transfer.py --data cifar10_jpeg.zip --preset dmformer_t_mix

Takes a part of the images that are not for the test, the same share of each class, and runs
`dmformer train --recipe fine_tuning` on it, by the same options, once from the preset and once from
the random weights of its architecture, for each seed; all images of the split `test` are what both
are measured on, after the last epoch. Finished runs under `--runs` are not trained again.
"""

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from tables import write_table

from dmformer_keras.system.files import written_whole

RESULTS = Path(__file__).parent / "results" / "transfer"


def take_part(data, share, folder):
    """Writes a part of what is not for the test, and all test images, to a folder."""
    from PIL import Image

    from dmformer_keras.data import open_source

    beside = folder.with_name(folder.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    rng = np.random.default_rng(0)
    # Where there is no folder val/, `val` is a tenth held out of the training images.
    for split, parts, own_share in (("train", ("train", "val"), share), ("test", ("test",), 1.0)):
        sources = [open_source(data, part) for part in parts]
        for label, name in enumerate(sources[0].class_names):
            own = [
                (source, int(index))
                for source in sources
                for index in np.flatnonzero(source.labels == label)
            ]
            (beside / split / name).mkdir(parents=True)
            for number in rng.permutation(len(own))[: round(own_share * len(own))]:
                source, index = own[number]
                image = Image.fromarray(source.read(index)[0])
                # Without loss: what was lost once is not lost again.
                image.save(beside / split / name / f"{number:06d}.png")
    # What is measured on is `val`, for `dmformer train` to look at it.
    (beside / "test").rename(beside / "val")
    beside.rename(folder)


def check_settings(args):
    """Ends the program if the two do not compare, or the runs that are there are of others."""
    from dmformer_keras.presets import read_preset
    from dmformer_keras.training import Recipe

    preset, architecture = (read_preset(name) for name in (args.preset, args.architecture))
    if architecture.has_weights or not preset.has_weights:
        sys.exit("--preset must have weights, and --architecture none.")
    for part in ("channels", "depths"):
        if list(preset.config[part]) != list(architecture.config[part]):
            sys.exit(
                f"{args.preset} and {args.architecture} differ in {part}; name the --architecture "
                "of the preset."
            )
    settings = {
        name: str(value)
        for name, value in vars(args).items()
        if name not in ("seeds", "runs", "output", "data", "preset")
    }
    settings["data"] = Path(args.data).name
    settings["weights"] = preset.metadata["files"]
    # As JSON has it, which knows no tuples.
    settings["recipe"] = json.loads(json.dumps(dataclasses.asdict(Recipe.named("fine_tuning"))))
    settings["backend"] = keras.config.backend()
    path = args.runs / "settings.json"
    if not path.is_file():
        args.runs.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as beside:
            beside.write_text(json.dumps(settings, indent=1) + "\n")
    elif json.loads(path.read_text()) != settings:
        sys.exit(f"{args.runs} holds runs of other settings; choose another --runs.")


def train(preset, seed, args, data, output):
    """Runs `dmformer train` unless it has finished; returns its report."""
    command = [
        "dmformer", "train", "--preset", preset, "--data", str(data), "--output", str(output),
        "--recipe", "fine_tuning", "--epochs", str(args.epochs),
        # Once, at the end: no epoch is chosen by the images that are measured on.
        "--validate-every", str(args.epochs),
        "--image-size", str(args.image_size), "--seed", str(seed),
    ]  # fmt: skip
    report = output / "report.json"
    if not report.is_file():
        if (output / "checkpoint" / "state.json").is_file():
            command.append("--resume")
        subprocess.run([sys.executable, "-m", "dmformer_keras.cli", *command[1:]], check=True)
    return json.loads(report.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a zip or folder with train/ and test/")
    parser.add_argument("--preset", required=True, help="what to fine-tune, with weights")
    parser.add_argument("--architecture", default="dmformer_t", help="the same, without weights")
    parser.add_argument("--share", type=float, default=0.1, help="of the training images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"), help="of the trainings")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    check_settings(args)
    data = args.runs / "data"
    if not data.is_dir():
        take_part(args.data, args.share, data)
    top1 = {}
    for seed in range(args.seeds):
        for kind, preset in (("preset", args.preset), ("random", args.architecture)):
            report = train(preset, seed, args, data, args.runs / f"{kind}-{seed}")
            top1.setdefault(kind, []).append(report["validation"]["top1"])
            print(f"{kind}, seed {seed}: {100 * top1[kind][-1]:.2f} %", flush=True)
    titles = {"preset": f"from {Path(args.preset).name}", "random": "from random weights"}
    rows = []
    for kind, title in titles.items():
        each = ", ".join(f"{100 * one:.2f}" for one in top1[kind])
        rows.append([title, f"{100 * np.mean(top1[kind]):.2f} ({each})"])
    settings = (
        f"{report['training_images']:,} training images, {args.epochs} epochs at "
        f"{args.image_size}x{args.image_size}."
    )
    heads = ["start", "top-1 on the test images (%), mean (each seed)"]
    write_table(args.output, settings, heads, rows)


if __name__ == "__main__":
    main()
