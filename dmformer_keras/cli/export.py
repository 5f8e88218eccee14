"""`dmformer export`"""

import importlib.util

import numpy as np

from dmformer_keras.cli.options import MODEL_HELP, SOURCE_HELP, add_image_size_option
from dmformer_keras.data import load_example, open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import image_size_of, is_segmenter, load_trained

DESCRIPTION = """\
Convert a trained model to a TFLite file that takes one image of fixed size in 0..255,
and compare the outputs of the file with Keras's."""
EPILOG = """\
examples:
  dmformer export runs/photos --output photos.tflite
  dmformer export runs/photos --output small.tflite --quantization int8 --data photos/
  dmformer export runs/streets --output streets.tflite --image-size 360x480 --data streets/
"""
# Of masks fewer, for all are held at once.
_MOST_IMAGES = {"classify": 100, "segment": 20}


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--format", choices=("tflite",), default="tflite", help="(default: tflite)")
    parser.add_argument("--output", metavar="FILE", required=True, help="the .tflite file to write")
    parser.add_argument(
        "--quantization",
        choices=("none", "float16", "dynamic", "int8"),
        default="none",
        help="float16 halves the file; dynamic stores weights in 8 bits; int8 computes in 8 bits "
        "and needs --data (default: none, float32)",
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help=f"images to quantise by and to compare on, {SOURCE_HELP} (default: random images, "
        "for comparison only)",
    )
    add_image_size_option(parser)


def run(args):
    """Exports, compares and prints."""
    from dmformer_keras.export import compare_tflite, to_tflite

    if args.quantization == "int8" and args.data is None:
        raise DMFormerError(
            "--quantization int8 measures the ranges of activations on real images; give some "
            "with --data."
        )
    model = load_trained(args.model, args.image_size)
    if args.image_size is None and None in model.input.shape[1:3] and is_segmenter(model):
        raise DMFormerError(
            f"{args.model} segments images of any size, and a file takes one size; choose it with "
            "--image-size."
        )
    shape = (*(args.image_size or image_size_of(model)), model.input.shape[-1])
    task = "segment" if is_segmenter(model) else "classify"
    calibration = None
    if args.quantization == "int8":
        calibration = sample_images(args.data, "train", shape, task)
    # Opened before the conversion: what is wrong with it is said before work starts.
    images = None if args.data is None else sample_images(args.data, "val", shape, task)
    path = to_tflite(
        model,
        args.output,
        quantization=None if args.quantization == "none" else args.quantization,
        representative_data=calibration,
        input_shape=shape,
    )
    print(f"Wrote {path}, {path.stat().st_size / 1e6:.2f} MB, input 1x{'x'.join(map(str, shape))}")
    if importlib.util.find_spec("ai_edge_litert") is None:
        print("Not compared with Keras: `pip install ai-edge-litert` brings what runs the file.")
        return
    if images is None:
        images = np.random.default_rng(0).uniform(0, 255, (8, *shape)).astype("float32")
    compared = compare_tflite(model, path, images)
    agreement = compared["top1_agreement"]
    same = f"{agreement:.2%} of pixels" if is_segmenter(model) else f"{agreement:.1%}"
    print(
        f"Compared on {len(images)} {'random ' if args.data is None else ''}images: same class on "
        f"{same}, largest difference of an output "
        f"{compared['max_difference']:.2g} ({compared['relative_difference']:.2g} of their range)"
    )


def sample_images(data, split, shape, task):
    """Returns up to 100 images of a source, or 20 to segment, evenly spread over it.

    Args:
        data: str, what `open_source` takes.
        split: str.
        shape: (height, width, channels).
        task: str, as `open_source` takes it.

    Returns:
        float32 array (count, height, width, channels) in 0..255.
    """
    source = open_source(data, split, task=task, channels=shape[2])
    chosen = (
        np.linspace(0, len(source) - 1, min(_MOST_IMAGES[task], len(source))).round().astype(int)
    )
    images = [load_example(source, int(index), shape[:2], None, 0, 0)[0] for index in chosen]
    return np.stack(images).astype("float32")
