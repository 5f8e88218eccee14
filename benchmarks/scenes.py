"""What are weights worth to a segmenter? The same heads and recipes, from several weights.

    python examples/scene_parsing.py data --names object_categories.txt --output scenes
    python benchmarks/scenes.py --data scenes/ --presets dmformer_t_mix runs/imagenette_alone random
    python benchmarks/scenes.py --data camvid_360x480.zip --recipes camvid --frozen --seeds 3 \\
        --presets dmformer_t_mix runs/imagenette_alone random --epochs 10 --batch-size 8 \\
        --image-size 128 --learning-rate 2.5e-3 --runs runs/camvid \\
        --output benchmarks/results/transfer_camvid

Trains a segmenter by each recipe from each preset with the same settings: by the two ADE20K
recipes, with the paper's two heads, on the images and masks that `examples/scene_parsing.py`
writes, or by CamVid's. The recipes are shortened: fewer epochs, smaller crops, narrower heads, and
a learning rate for as few steps. `--frozen` also trains each head on a frozen backbone, by AdamW,
where CamVid's recipe has Muon. "random" stands for random weights of `--architecture`. mIoU and
pixel accuracy are measured once, on the validation images, after the last epoch. Finished runs
under `--runs` are not trained again.
"""

import argparse
from pathlib import Path

import keras
from jobs import check_presets, check_same_settings, run_name, train_once
from tables import mean_cell, write_table

RESULTS = Path(__file__).parent / "results" / "scenes"
HEADS = {
    "ade20k_semantic_fpn": "Semantic FPN",
    "ade20k_upernet": "UPerNet",
    "camvid": "Semantic FPN",
}
MEASURES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}


def train(start, recipe, frozen, seed, args):
    """Trains one head from one preset unless it was done; returns the report."""
    # Muon trains the backbone's convolutions, of which none is left.
    freezing = ["--freeze-backbone", "--optimizer", "adamw"] if frozen else []
    name = f"{recipe}-{run_name(start)}-{'frozen-' if frozen else ''}{seed}"
    return train_once(
        args.runs / name, "--task", "segment", "--recipe", recipe,
        "--preset", args.architecture if start == "random" else start, "--data", args.data,
        "--epochs", args.epochs, "--warmup-epochs", 1, "--batch-size", args.batch_size,
        "--image-size", args.image_size, "--progressive-resizing",
        "--head-channels", args.head_channels, "--learning-rate", args.learning_rate,
        "--clip-norm", 1, "--precision", args.precision, "--validate-every", args.epochs,
        "--cache", "memory", "--seed", seed, *freezing,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="images and masks, as `dmformer train` takes")
    parser.add_argument(
        "--presets", nargs="+", required=True, help="presets with weights, or random"
    )
    parser.add_argument("--architecture", default="dmformer_t", help="architecture of `random`")
    parser.add_argument(
        "--recipes", nargs="+", choices=HEADS, default=["ade20k_semantic_fpn", "ade20k_upernet"]
    )
    parser.add_argument("--frozen", action="store_true", help="train on frozen backbones, too")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=96, help="side of the crops")
    parser.add_argument("--head-channels", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/scenes"), help="folder of the trainings"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    settings = {
        name: value
        for name, value in vars(args).items()
        if name not in ("presets", "recipes", "frozen", "seeds", "runs", "output")
    }
    check_presets([name for name in args.presets if name != "random"], args.architecture)
    settings.update(data=Path(args.data).name, backend=keras.config.backend())
    check_same_settings(args.runs, settings)
    columns = [
        (recipe, frozen)
        for recipe in args.recipes
        for frozen in ((True, False) if args.frozen else (False,))
    ]
    rows = []
    for start in args.presets:
        row = [Path(start).name]
        for recipe, frozen in columns:
            if frozen and start == "random":  # whose features are worth no head
                row += [mean_cell(None)] * len(MEASURES)
                continue
            reports = [train(start, recipe, frozen, seed, args) for seed in range(args.seeds)]
            for measure in MEASURES:
                row.append(mean_cell([report["validation"][measure] for report in reports]))
            print(f"{start}, {recipe}{', frozen' if frozen else ''}: {row[-2:]}", flush=True)
        rows.append(row)
    heads = [
        f"{HEADS[recipe]}, {'frozen backbone, ' if frozen else ''}{measure}"
        for recipe, frozen in columns
        for measure in MEASURES.values()
    ]
    said = (
        f"{reports[0]['training_images']:,} training and "
        f"{reports[0]['validation']['examples']:,} validation images, "
        f"{args.epochs} epochs of crops of {args.image_size}x{args.image_size}, heads of "
        f"{args.head_channels} channels, a learning rate of {args.learning_rate}; in %, "
        f"{'one seed' if args.seeds == 1 else 'mean (each seed)'}."
        f"{' Frozen backbones: AdamW.' if args.frozen else ''}"
    )
    write_table(args.output, said, ["start", *heads], rows)


if __name__ == "__main__":
    main()
