"""Which architectures are accurate for their latency? Peers trained alike, and run as files.

    python benchmarks/frontier.py --data imagenette_160.zip
    KERAS_BACKEND=torch python benchmarks/frontier.py --data imagenette_160.zip \\
        --contestants ConvNeXtTiny --train-only

Every contestant is trained from random weights, on the same images in the same order, for as long
and by the same recipe. Each run is a process that leaves a folder under `--runs`; what is there is
not trained again. A run may be trained on another backend than the rest, where that is faster.
Then every model is converted to TFLite, in float32 and int8, and to OpenVINO; accuracy is measured
on the files, and latency in turns, an image at a time. Writes `results/frontier/results.md`,
`results.json` and `frontier.png`.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from jobs import are_same, side_by_side

from dmformer_keras.system.files import written_whole

RESULTS = Path(__file__).parent / "results" / "frontier"
OURS = {"DMFormerN": "dmformer_n", "DMFormerT": "dmformer_t"}
# Those of keras.applications whose own first layer does not take pixels in 0..255.
WITHOUT_RESCALING = ("ResNet50V2",)
CONTESTANTS = (*OURS, "MobileNetV3Large", "EfficientNetV2B0", "ResNet50V2", "ConvNeXtTiny")
FILES = {
    "TFLite, float32": ("to_tflite", ".tflite", None),
    "TFLite, int8": ("to_tflite", ".tflite", "int8"),
    "OpenVINO, float32": ("to_openvino", ".xml", None),
}


def build(name, image_size, class_names):
    """Returns a contestant with random weights, from pixels in 0..255 to logits."""
    import keras

    from dmformer_keras import DMFormerClassifier

    shape, classes = (image_size, image_size, 3), len(class_names)
    if name in OURS:
        return DMFormerClassifier.from_preset(
            OURS[name], num_classes=classes, class_names=class_names, input_shape=shape
        )
    model = getattr(keras.applications, name)(
        weights=None, input_shape=shape, classes=classes, classifier_activation=None
    )
    if name in WITHOUT_RESCALING:
        images = keras.Input(shape)
        rescaled = keras.layers.Rescaling(1 / 127.5, -1)(images)
        model = keras.Model(images, model(rescaled), name=name)
    return described(model, class_names)


def described(model, class_names):
    """Gives a model of keras.applications what `evaluate` and the exports ask of a classifier."""
    model.activation, model.class_names = "linear", list(class_names)
    return model


def recipe_of(args, seed):
    from dmformer_keras.training import Recipe

    return Recipe(
        epochs=args.epochs,
        batch_size=args.batch_size,
        image_size=args.image_size,
        learning_rate=args.learning_rate,
        clip_norm=1.0,
        seed=seed,
    )


def run(args, name, seed, decoded, folder):
    """Trains one contestant with one seed, and writes the model and what came of it."""
    import keras
    from ablation import fit, opened

    from dmformer_keras.complexity import count_multiply_accumulates
    from dmformer_keras.training import evaluate
    from dmformer_keras.training.averaging import estimate_statistics
    from dmformer_keras.training.batches import statistics_batches

    train, val = opened(decoded)
    recipe = recipe_of(args, seed)
    keras.utils.set_random_seed(seed)
    model = build(name, args.image_size, train.class_names)
    losses, seconds = fit(model, recipe, train)
    # BatchNorm's running statistics move at another pace in each architecture, and in some too
    # slowly for a short training.
    size = (args.image_size,) * 2
    estimate_statistics(model, statistics_batches(train, recipe, size, recipe.epochs))
    result = {
        "settings": settings(args),
        "backend": keras.config.backend(),
        "parameters": model.count_params(),
        "multiply_accumulates": count_multiply_accumulates(model),
        "seconds": seconds,
        "train_loss": losses,
        **evaluate(model, val).metrics(),
    }
    with written_whole(folder / "model.weights.h5") as beside:
        model.save_weights(beside)
    with written_whole(folder / "report.json") as beside:  # last: it says that the run is whole
        beside.write_text(json.dumps(result, indent=1) + "\n")


def settings(args):
    """What must be the same for two runs to be compared."""
    recipe = dataclasses.asdict(recipe_of(args, seed=0))
    return {"data": Path(args.data).name, "recipe": recipe}


def train_all(args, decoded):
    """Trains what is not there yet, `--jobs` processes at a time."""

    def train(one, environment):
        folder = args.runs / f"{one[0]}-{one[1]}"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, *sys.argv[1:], "--one", *map(str, one), decoded]
        with open(folder / "log.txt", "w") as log:
            subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True
            )
        report = json.loads((folder / "report.json").read_text())
        print(f"{one[0]}, seed {one[1]}: {report['top1']:.4f}", flush=True)

    finished = finished_runs(args)
    missing = [
        (name, seed)
        for seed in range(args.seeds)  # every contestant once, before any twice
        for name in args.contestants
        if (name, seed) not in finished
    ]
    side_by_side(train, missing, args.jobs)


def finished_runs(args):
    """{(contestant, seed): report} of what is there; ends the program at one of other settings."""
    found = {}
    for name in CONTESTANTS:
        for seed in range(args.seeds):
            path = args.runs / f"{name}-{seed}" / "report.json"
            if path.is_file():
                found[name, seed] = json.loads(path.read_text())
    for key, report in found.items():
        if not are_same(report["settings"], settings(args)):
            sys.exit(f"{args.runs} holds a run of other settings, {key}; choose another --runs.")
    return found


def converted(args, name, seed, train, folder):
    """Returns {kind of file: path} of one trained model."""
    from dmformer_keras import export

    model = build(name, args.image_size, train.class_names)
    model.load_weights(args.runs / f"{name}-{seed}" / "model.weights.h5")
    paths = {}
    for kind, (convert, suffix, quantization) in FILES.items():
        options = {"fuse": name in OURS, "verify": False}
        if quantization:
            options |= {"quantization": quantization, "representative_data": train}
        path = folder / f"{name}-{seed}-{quantization or 'float32'}{suffix}"
        paths[kind] = getattr(export, convert)(model, path, **options)
    return paths


def measured(args, decoded):
    """Returns {contestant: figures} of all finished runs: what the table and the plot show."""
    from ablation import opened
    from int8 import measure

    from dmformer_keras.data import resize_image
    from dmformer_keras.export import load_exported
    from dmformer_keras.training import evaluate

    train, val = opened(decoded)
    reports = finished_runs(args)
    image = resize_image(val.read(0)[0], (args.image_size,) * 2)[None].astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        paths = {key: converted(args, *key, train, Path(folder)) for key in reports}
        top1 = {
            key: {kind: evaluate(load_exported(path), val).top1 for kind, path in files.items()}
            for key, files in paths.items()
        }
        # Latency does not depend on the weights: that of the first seed.
        timed = {
            (name, kind): path
            for (name, seed), files in paths.items()
            if seed == min(other for one, other in reports if one == name)
            for kind, path in files.items()
        }
        milliseconds = measure(timed, image, args.threads, args.rounds, seconds=0)
    return {
        name: {
            "parameters": mine[0]["parameters"],
            "multiply_accumulates": mine[0]["multiply_accumulates"],
            "minutes": float(np.median([report["seconds"] for report in mine])) / 60,
            "backend": mine[0]["backend"],
            "top1": {
                kind: [top1[key][kind] for key in reports if key[0] == name] for kind in FILES
            },
            "milliseconds": {kind: float(np.median(milliseconds[name, kind])) for kind in FILES},
        }
        for name in CONTESTANTS
        if (mine := [report for (one, _), report in reports.items() if one == name])
    }


def frontier(found, kind):
    """The contestants that no other beats in both accuracy and latency, by their names."""

    def point(name):
        return np.mean(found[name]["top1"][kind]), -found[name]["milliseconds"][kind]

    return {
        name
        for name in found
        if not any(
            all(theirs >= own for theirs, own in zip(point(other), point(name), strict=True))
            and point(other) != point(name)
            for other in found
        )
    }


def rows_of(found):
    """The cells of the table; a star where nothing is both faster and more accurate."""
    best = {kind: frontier(found, kind) for kind in FILES}
    return [
        [
            name,
            f"{one['parameters'] / 1e6:.1f}",
            f"{one['multiply_accumulates'] / 1e6:.0f}",
            *(
                f"{100 * np.mean(one['top1'][kind]):.2f} % in {one['milliseconds'][kind]:.1f} ms"
                + (" *" if name in best[kind] else "")
                for kind in FILES
            ),
            f"{len(next(iter(one['top1'].values())))}",
            f"{one['minutes']:.0f} ({one['backend']})",
        ]
        for name, one in found.items()
    ]


def draw(found, path):
    """Draws accuracy over latency, a panel for each kind of file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(4 * len(FILES), 3.6), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(FILES), sharey=True), FILES, strict=True):
        for name, one in found.items():
            x, y = one["milliseconds"][kind], 100 * np.mean(one["top1"][kind])
            axes.plot([x], [y], "o", color="C0" if name in OURS else "C7")
            axes.annotate(name, (x, y), (4, 4), textcoords="offset points", fontsize=7)
        steps = sorted(
            (found[name]["milliseconds"][kind], 100 * np.mean(found[name]["top1"][kind]))
            for name in frontier(found, kind)
        )
        axes.plot(*zip(*steps, strict=True), "-", color="C2", alpha=0.5)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        times = [one["milliseconds"][kind] for one in found.values()]
        # Whole powers of two, so that there are ticks, and room for the names.
        axes.set_xlim(2 ** np.floor(np.log2(min(times))), 2 ** np.ceil(np.log2(max(times))) * 2)
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel("latency (ms)")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("top-1 (%)")
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120, format="png")


def write(args, found):
    """Writes the table, the figures as JSON, and the plot."""
    from tables import write_table

    report = next(iter(finished_runs(args).values()))
    settings = (
        f"All trained from random weights at {args.image_size}x{args.image_size}, {args.epochs} "
        f"epochs in batches of {args.batch_size}, AdamW with a learning rate of "
        f"{args.learning_rate:g}; BatchNorm statistics estimated anew after the last step. "
        f"Top-1 of the file on {report['examples']:,} validation images, mean of the seeds, and "
        f"its latency for one image, median of {args.rounds} rounds, threads: {args.threads}. A "
        "star: no other is both faster and more accurate."
    )
    heads = ["model", "parameters (M)", "MMACs", *FILES, "seeds", "minutes to train"]
    write_table(args.output, settings, heads, rows_of(found))
    with written_whole(args.output / "results.json") as path:
        path.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, args.output / "frontier.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labeled images, as `dmformer train` takes")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--train-only", action="store_true", help="without files and the table")
    parser.add_argument("--threads", type=int, default=1, help="for the latency")
    parser.add_argument("--rounds", type=int, default=51, help="for the latency")
    parser.add_argument("--runs", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # a process of a single run
    args = parser.parse_args()
    if args.one:
        name, seed, decoded = args.one
        run(args, name, int(seed), decoded, args.runs / f"{name}-{seed}")
        return
    finished_runs(args)  # before hours of training
    from ablation import decode

    with tempfile.TemporaryDirectory() as temporary:
        decoded = str(Path(temporary) / "decoded.npz")
        # A little larger than the crops, which enlarge what they take.
        decode(args.data, args.image_size * 5 // 3, decoded)
        train_all(args, decoded)
        if not args.train_only:
            write(args, measured(args, decoded))


if __name__ == "__main__":
    main()
