"""Where does scene parsing start from? The paper's two heads, from several weights, alike.

    python examples/scene_parsing.py data --names object_categories.txt --output scenes
    python benchmarks/scenes.py --data scenes/ --presets dmformer_t_mix runs/imagenette_alone random

Trains a segmenter on the images and masks that `examples/scene_parsing.py` writes, by each of the
two ADE20K recipes from each preset. The recipes are shortened: fewer epochs, smaller crops,
narrower heads, and a learning rate for as few steps, the same for all. "random" stands for random
weights of `--architecture`. mIoU and pixel accuracy are measured once, on the validation images,
after the last epoch. Finished runs under `--runs` are not trained again.
"""

import argparse
from pathlib import Path

import keras
from jobs import check_same_settings, run_name, train_once
from tables import write_table

RESULTS = Path(__file__).parent / "results" / "scenes"
HEADS = {"ade20k_semantic_fpn": "Semantic FPN", "ade20k_upernet": "UPerNet"}


def train(start, recipe, args):
    """Trains one head from one preset unless it was done; returns the report."""
    return train_once(
        args.runs / f"{recipe}-{run_name(start)}", "--task", "segment", "--recipe", recipe,
        "--preset", args.architecture if start == "random" else start, "--data", args.data,
        "--epochs", args.epochs, "--warmup-epochs", 1, "--batch-size", args.batch_size,
        "--image-size", args.image_size, "--head-channels", args.head_channels,
        "--learning-rate", args.learning_rate, "--clip-norm", 1, "--precision", args.precision,
        "--validate-every", args.epochs, "--cache", "memory",
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what examples/scene_parsing.py wrote")
    parser.add_argument("--presets", nargs="+", required=True, help="with weights, or random")
    parser.add_argument("--architecture", default="dmformer_t", help="of random weights")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=96, help="of the crops")
    parser.add_argument("--head-channels", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--runs", type=Path, default=Path("runs/scenes"), help="of the trainings")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    settings = {
        name: value
        for name, value in vars(args).items()
        if name not in ("presets", "runs", "output")
    }
    settings.update(data=Path(args.data).name, backend=keras.config.backend())
    check_same_settings(args.runs, settings)
    rows = []
    for start in args.presets:
        row = [Path(start).name]
        for recipe in HEADS:
            report = train(start, recipe, args)
            found = report["validation"]
            row += [f"{100 * found[name]:.2f}" for name in ("miou", "pixel_accuracy")]
            print(f"{start}, {recipe}: mIoU {row[-2]} %, pixels {row[-1]} %", flush=True)
        rows.append(row)
    heads = [f"{head}, {what}" for head in HEADS.values() for what in ("mIoU", "pixel accuracy")]
    said = (
        f"{report['training_images']:,} training and {found['examples']:,} validation images, "
        f"{args.epochs} epochs of crops of {args.image_size}x{args.image_size}, heads of "
        f"{args.head_channels} channels, a learning rate of {args.learning_rate}; in %, one seed."
    )
    write_table(args.output, said, ["start", *heads], rows)


if __name__ == "__main__":
    main()
