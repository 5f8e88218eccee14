"""Does DMA earn its place? Other token mixers at an equal budget, and parts of DMA.

    python benchmarks/ablation.py --data imagenette_160.zip
    python benchmarks/ablation.py --data imagenette_160.zip --image-size 128 --epochs 100 \\
        --output full
    python benchmarks/ablation.py --data mix --cache cache --image-size 64 --epochs 20 \\
        --images-per-epoch 12500 --batch-size 128 --precision mixed_bfloat16 --seeds 1 \\
        --contestants dma no_gate large_kernel_attention depthwise_7x7 \\
        --output benchmarks/results/ablation_mix

Every contestant is trained from random weights in the same skeleton, on the same images, by
the same recipe, with the same seeds; other mixers have as many more blocks as bring their
parameters and multiply-accumulates nearest to DMFormer-N's. Parts of DMA keep its number of
blocks, so that fewer levels are a smaller model. Images are decoded once, into memory, or into the
folder `--cache` where there are too many for that. Each run is a process that leaves
a file under `results/ablation/runs/`; what is there already is not trained again, so that
the command goes on where it was ended. Then it writes `results.md`, `results.json` and
`accuracy.png`.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from jobs import are_same, side_by_side
from tables import write_table

from dmformer_keras.system.files import written_whole

RESULTS = Path(__file__).parent / "results" / "ablation"
HEADS = [
    "token mixer", "parameters (M)", "MMACs", "top-1 (%), mean ± deviation", "seeds",
    "minutes per run",
]  # fmt: skip
CHANNELS = (24, 48, 96, 192)
DEPTHS = (2, 2, 4, 2)  # DMFormer-N's
# {name: (what it is, mixer or None for DMA, depths, arguments of the backbone)}
CONTESTANTS = {
    "dma": ("DMA, levels 3, 5 and 7 (DMFormer-N)", None, DEPTHS, {}),
    "levels_3": ("DMA, level 3", None, DEPTHS, {"levels": ((3, 1),)}),
    "levels_5": ("DMA, level 5", None, DEPTHS, {"levels": ((5, 2),)}),
    "levels_7": ("DMA, level 7", None, DEPTHS, {"levels": ((7, 3),)}),
    "levels_3_5": ("DMA, levels 3 and 5", None, DEPTHS, {"levels": ((3, 1), (5, 2))}),
    "no_gate": ("DMA without the gate", None, DEPTHS, {"use_gate": False}),
    "no_inner_residual": (
        "DMA without the inner residual",
        None,
        DEPTHS,
        {"inner_residual": False},
    ),
    "large_kernel_attention": ("LKA (VAN)", "large_kernel_attention", (2, 3, 5, 3), {}),
    "depthwise_7x7": ("7x7 depthwise (ConvNeXt)", "depthwise_7x7", (4, 3, 7, 4), {}),
    "pooling": ("average pooling (PoolFormer)", "pooling", (4, 4, 8, 4), {}),
    "self_attention": ("global self-attention", "self_attention", (2, 2, 5, 3), {}),
}


def build(name, image_size, class_names):
    """Returns a contestant's classifier."""
    from mixers import backbone_class

    from dmformer_keras import DMFormerBackbone, DMFormerClassifier

    _, mixer, depths, arguments = CONTESTANTS[name]
    kind = backbone_class(mixer) if mixer else DMFormerBackbone
    backbone = kind(CHANNELS, depths, input_shape=(image_size, image_size, 3), **arguments)
    return DMFormerClassifier(backbone, len(class_names), class_names=class_names)


def counts(model):
    """Returns (parameters, multiply-accumulates), those of an attention's products too."""
    from dmformer_keras.complexity import count_multiply_accumulates

    products = sum(
        layer.attention.multiply_accumulates(layer.output.shape[-1])
        for layer in model.backbone.layers
        if hasattr(getattr(layer, "attention", None), "multiply_accumulates")
    )
    return model.count_params(), count_multiply_accumulates(model) + products


def recipe_of(args, seed):
    from dmformer_keras.training import Recipe

    return Recipe(
        epochs=args.epochs,
        images_per_epoch=args.images_per_epoch,
        batch_size=args.batch_size,
        image_size=args.image_size,
        learning_rate=2e-3,
        clip_norm=1.0,
        precision=args.precision,
        seed=seed,
    )


def sources(args, decoded):
    """Returns the sources of the training and of the validation images, decoded before."""
    from dmformer_keras.data import open_source
    from dmformer_keras.data.cache import cached

    if args.cache is None:
        return opened(decoded)
    train, val = (open_source(args.data, split) for split in ("train", "val"))
    return [cached(train, (args.image_size,) * 2, args.cache), val]


def opened(decoded):
    """Returns the sources of a file of `decode`."""
    from dmformer_keras.data import open_source

    with np.load(decoded) as arrays:
        names = arrays["class_names"].tolist()
        return [
            open_source((arrays[f"{split}_images"], arrays[f"{split}_labels"], names), "all")
            for split in ("train", "val")
        ]


def fit(model, recipe, source):
    """Trains any classifier by a recipe; returns (losses of the epochs, seconds)."""
    from dmformer_keras.training.batches import training_batches
    from dmformer_keras.training.optimization import compile_for
    from dmformer_keras.training.run_checks import steps_of_epoch
    from dmformer_keras.training.tasks import task_of

    steps = steps_of_epoch(recipe, source)
    compile_for(recipe, model, steps, *task_of(recipe).objective(source))
    start = time.perf_counter()
    history = model.fit(
        training_batches(source, recipe, (recipe.image_size,) * 2, first_step=0),
        shuffle=False,
        steps_per_epoch=steps,
        epochs=recipe.epochs,
        verbose=2,
    )
    return history.history["loss"], time.perf_counter() - start


def run(args, name, seed, decoded, path):
    """Trains one contestant with one seed, and writes what came of it."""
    import keras

    from dmformer_keras.training import evaluate

    train, val = sources(args, decoded)
    recipe = recipe_of(args, seed)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(args.precision)
    model = build(name, args.image_size, train.class_names)
    losses, seconds = fit(model, recipe, train)
    evaluation = evaluate(model, val)
    parameters, multiply_accumulates = counts(model)
    result = {
        "contestant": name,
        "made_of": json.loads(json.dumps(CONTESTANTS[name][1:])),
        "seed": seed,
        "settings": settings(args),
        "parameters": parameters,
        "multiply_accumulates": multiply_accumulates,
        "seconds": seconds,
        "train_loss": losses,
        **evaluation.metrics(),
    }
    with written_whole(path) as beside:
        beside.write_text(json.dumps(result, indent=1) + "\n")


def settings(args):
    """What must be the same for two runs to be compared."""
    import keras

    recipe = dataclasses.asdict(recipe_of(args, seed=0))
    found = {"data": Path(args.data).name, "backend": keras.config.backend(), "recipe": recipe}
    # Which keeps images' shapes, where `decode` squashes them.
    return {**found, "cached": True} if args.cache else found


def decode(source, size, path):
    """Writes every image of both splits, resized, and the labels to one file."""
    from dmformer_keras.data import open_source, resize_image

    arrays = {}
    for split in ("train", "val"):
        opened = open_source(source, split)
        images = np.empty((len(opened), size, size, 3), np.uint8)
        for index in range(len(opened)):
            images[index] = resize_image(opened.read(index)[0], (size, size), "squash")
        arrays |= {f"{split}_images": images, f"{split}_labels": opened.labels}
        arrays["class_names"] = np.array(opened.class_names)
    np.savez(path, **arrays)


def train_all(args, folder):
    """Trains what is not there yet, `--jobs` processes at a time; tells whether all went."""
    missing = [
        (name, seed, folder / f"{name}-{seed}.json")
        for seed in range(args.seeds)  # every contestant once, before any twice
        for name in args.contestants
        if not (folder / f"{name}-{seed}.json").is_file()
    ]
    if not missing:
        return True
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        decoded = Path(temporary) / "decoded.npz"
        if args.cache is None:
            # A little larger than the crops, which enlarge what they take.
            decode(args.data, args.image_size * 5 // 3, decoded)

        def train(one, environment):
            name, seed, path = one
            one_run = ["--one", name, str(seed), str(decoded), str(path)]
            command = [sys.executable, __file__, *sys.argv[1:], *one_run]
            with open(path.with_suffix(".log"), "w") as log:
                code = subprocess.run(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT
                ).returncode
            if code:
                print(f"{name} with seed {seed} failed: see {path.with_suffix('.log')}", flush=True)
                return
            path.with_suffix(".log").unlink()
            print(f"{name}, seed {seed}: {json.loads(path.read_text())['top1']:.4f}", flush=True)

        side_by_side(train, missing, args.jobs)
    return all(path.is_file() for _, _, path in missing)


def finished_runs(args, folder):
    """Returns the results in a folder; ends the program if one is of other settings."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for one in results:
        made_of = json.loads(json.dumps(CONTESTANTS[one["contestant"]][1:]))
        if not are_same(one["settings"], settings(args)) or one["made_of"] != made_of:
            sys.exit(
                f"{folder} holds a run of other settings, {one['contestant']}-{one['seed']}.json; "
                "choose another --output."
            )
    return results


def summarized(results):
    """Returns a dict for each contestant, in the order of `CONTESTANTS`."""
    lines = []
    for name, (title, *_) in CONTESTANTS.items():
        own = sorted(
            (result for result in results if result["contestant"] == name),
            key=lambda result: result["seed"],
        )
        if own:
            top1 = [result["top1"] for result in own]
            lines.append(
                {
                    "contestant": name,
                    "title": title,
                    "parameters": own[0]["parameters"],
                    "multiply_accumulates": own[0]["multiply_accumulates"],
                    "top1": top1,
                    "mean": float(np.mean(top1)),
                    "deviation": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
                    "seconds": float(np.median([result["seconds"] for result in own])),
                }
            )
    return lines


def rows_of(lines):
    """Returns the rows of the table, lists of str: see `HEADS`."""
    rows = []
    for line in lines:
        deviation = "" if line["deviation"] is None else f" ± {100 * line['deviation']:.2f}"
        rows.append([
            line["title"], f"{line['parameters'] / 1e6:.2f}",
            f"{line['multiply_accumulates'] / 1e6:.1f}", f"{100 * line['mean']:.2f}{deviation}",
            str(len(line["top1"])), f"{line['seconds'] / 60:.1f}",
        ])  # fmt: skip
    return rows


def draw(lines, path):
    """Draws every run and each mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.45 * len(lines) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(reversed(lines)):
        color = "C0" if line["contestant"] == "dma" else "C7"
        axes.plot([100 * share for share in line["top1"]], [place] * len(line["top1"]), "o",
                  color=color, alpha=0.5)  # fmt: skip
        axes.plot([100 * line["mean"]], [place], "|", color=color, markersize=18)
    axes.set_yticks(range(len(lines)), [line["title"] for line in reversed(lines)])
    axes.set_xlabel("top-1 accuracy (%), one point per seed, a bar at the mean")
    axes.grid(axis="x", alpha=0.3)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120, format="png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labeled images, as `dmformer train` takes")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images-per-epoch", type=int, help="training images (default: all)")
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--cache", help="folder for decoded images, where memory is too small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # a process of a single run
    args = parser.parse_args()
    if args.one:
        name, seed, decoded, path = args.one
        run(args, name, int(seed), decoded, Path(path))
        return
    folder = args.output / "runs"
    finished_runs(args, folder)  # before hours of training
    if not train_all(args, folder):
        sys.exit("Not all runs went through: no table was written; run the command again.")
    lines = summarized(finished_runs(args, folder))
    command = shlex.join(["python", "benchmarks/ablation.py", *sys.argv[1:]])
    with written_whole(args.output / "results.json") as path:
        path.write_text(json.dumps({"command": command, "contestants": lines}, indent=1) + "\n")
    draw(lines, args.output / "accuracy.png")
    images = args.images_per_epoch
    said = (
        f"{args.epochs} epochs of {f'{images:,}' if images else 'all'} training images at "
        f"{args.image_size}x{args.image_size}, from random weights."
    )
    write_table(args.output, said, HEADS, rows_of(lines))


if __name__ == "__main__":
    main()
