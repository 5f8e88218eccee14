"""Averages the weights of a model and of a training that went on from it.

    python examples/average_weights.py dmformer_t_mix runs/more --data mix --output runs/between

The average often keeps what each of the two is better at (Wortsman et al. 2022, "Robust fine-tuning
of zero-shot models"). BatchNorm's statistics are estimated anew on training images. The result is
a preset: continue its training, or measure it with `dmformer evaluate`.
"""

import argparse
from pathlib import Path

import numpy as np

import dmformer_keras
from dmformer_keras.data import open_source, resize_image
from dmformer_keras.training import average_weights


def images_of(source, count, image_size):
    """Some training images, resized; float32 array (count, *image_size, channels)."""
    places = np.random.default_rng(0).permutation(len(source))[:count]
    images = [resize_image(source.read(int(place))[0], image_size) for place in places]
    return np.stack(images).astype("float32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", help="a preset's name or folder, or a run's folder")
    parser.add_argument("second", help="the same, of a training that went on from the first")
    parser.add_argument(
        "--share", type=float, default=0.5, help="share of the second (default: 0.5)"
    )
    parser.add_argument("--data", required=True, help="training images, as `dmformer train` takes")
    parser.add_argument("--images", type=int, default=1024, help="how many (default: 1024)")
    parser.add_argument("--image-size", type=int, default=128, help="in pixels (default: 128)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: 64)")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    args = parser.parse_args()
    if args.images < 1 or args.batch_size < 1:
        parser.error("--images and --batch-size must be 1 or more.")
    if args.output.exists():
        parser.error(f"{args.output} exists already; give a new folder.")
    size = (args.image_size, args.image_size)
    first, second = (dmformer_keras.load(name, size) for name in (args.first, args.second))
    source = open_source(args.data, "train", channels=first.input.shape[-1])
    if source.labels is None:
        parser.error(f"{source.title} is streamed; give a folder or a zip.")
    images = images_of(source, args.images, size)
    batches = np.array_split(images, -(-len(images) // args.batch_size))
    average_weights(first, second, args.share, batches)
    first.save_to_preset(args.output)


if __name__ == "__main__":
    main()
