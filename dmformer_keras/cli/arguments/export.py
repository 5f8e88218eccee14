"""The arguments of `dmformer export`."""

from dmformer_keras.cli.arguments.shared import (
    MODEL_HELP,
    SOURCE_HELP,
    add_image_size_option,
    add_on_corrupt_option,
    check_data,
    check_model,
)
from dmformer_keras.errors import DMFormerError
from dmformer_keras.exported_files import SUFFIXES

DESCRIPTION = """\
Convert a trained model to a file for another runtime, compare the file with Keras, and write a
report: differences of the outputs, operators, size, latency, memory. A file whose outputs differ
from the model's is not kept. The file contains the class names and the preprocessing."""
EPILOG = """\
examples:
  dmformer export runs/photos --output photos.tflite
  dmformer export runs/photos --output small.tflite --quantization int8 --data photos/
  dmformer export runs/streets --output streets.tflite --image-size 360x480 --data streets/
  dmformer export runs/photos --output photos.onnx
  dmformer export runs/photos --output photos.xml --precision bfloat16
  dmformer export runs/photos --output small.onnx --quantization int8 --data photos/
  dmformer export runs/photos --output served --format saved_model
then measure the file:
  dmformer evaluate small.tflite --data photos/
"""
# Options that are for some formats only: {attribute: (option, formats)}.
_OF_FORMATS = {
    "quantization": ("--quantization", ("tflite", "onnx", "openvino")),
    "int8_io": ("--int8-io", ("tflite",)),
    "exact_gelu": ("--exact-gelu", ("tflite",)),
    "resizable": ("--resizable", ("tflite",)),
    "converter": ("--converter", ("tflite",)),
    "precision": ("--precision", ("openvino",)),
    "opset": ("--opset", ("onnx",)),
    "data_format": ("--data-format", ("onnx",)),
    "batch_size": ("--batch-size", ("tflite", "onnx", "openvino")),
}


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--output", metavar="FILE", required=True, help="the file, or SavedModel folder, to write"
    )
    parser.add_argument(
        "--format",
        choices=tuple(SUFFIXES),
        help="format to write (default: from the suffix of FILE)",
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="images for the comparison (validation split) and for the ranges of int8 (training "
        f"split): {SOURCE_HELP} (default: random images, for the comparison only)",
    )
    add_on_corrupt_option(parser)
    add_image_size_option(parser)
    parser.add_argument(
        "--no-fuse", action="store_true", help="do not fold BatchNorm into other layers"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest allowed difference from Keras, relative to the spread of the outputs "
        "(default: depends on the precision)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images per call (default: 1; any number in onnx)",
    )
    parser.add_argument(
        "--quantization",
        choices=("none", "float16", "dynamic", "int8"),
        help="int8 computes in 8 bits and needs --data (tflite, onnx, openvino); float16 halves "
        "the file, dynamic stores weights in 8 bits (tflite) (default: none, float32)",
    )
    group = parser.add_argument_group("tflite")
    group.add_argument(
        "--int8-io", action="store_true", default=None, help="also use int8 for input and output"
    )
    group.add_argument(
        "--exact-gelu",
        action="store_true",
        default=None,
        help="keep the exact GELU in int8 instead of x * sigmoid(1.702 x), which is faster",
    )
    group.add_argument(
        "--resizable", action="store_true", default=None, help="accept images of any size"
    )
    group.add_argument(
        "--converter",
        choices=("tensorflow", "litert"),
        help="litert is litert-torch, which succeeds TensorFlow's converter (default: tensorflow)",
    )
    group = parser.add_argument_group("onnx")
    group.add_argument(
        "--opset", type=int, metavar="N", help="version of the operators (default: 18)"
    )
    group.add_argument(
        "--data-format",
        choices=("channels_last", "channels_first"),
        help="layout of the input and of an output map (default: channels_last)",
    )
    parser.add_argument_group("openvino").add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="precision to compute in (default: float32)",
    )


def check(args):
    """Checks what can be known at once."""
    options_of(args, format_of(args))
    kind = check_model(args.model, exported=False)
    if args.data is not None:
        check_data(args.data, ["val"], kind, args.model)


def options_of(args, form):
    """Returns the options that are for this format; raises for one that is not."""
    options = {}
    for name, (option, formats) in _OF_FORMATS.items():
        value = getattr(args, name)
        if value is None:
            continue
        if form not in formats:
            raise DMFormerError(f"{option} is for {' and '.join(formats)}, not for {form}.")
        options[name] = value
    if options.pop("exact_gelu", False):
        if options.get("quantization") != "int8":
            raise DMFormerError("--exact-gelu is for --quantization int8; leave it out.")
        options["sigmoid_gelu"] = False
    if options.get("quantization") == "none":
        options["quantization"] = None
    if options.get("quantization") == "int8":
        if args.data is None:
            raise DMFormerError(
                "--quantization int8 measures the ranges of activations on real images; give some "
                "with --data."
            )
        options["representative_data"] = args.data
    return options


def format_of(args):
    """Returns the format that is asked for, or that the path's suffix says."""
    if args.format:
        return args.format
    output = args.output
    for form, suffix in SUFFIXES.items():
        if suffix and output.endswith(suffix):
            return form
    suffixes = ", ".join(filter(None, SUFFIXES.values()))
    raise DMFormerError(
        f"{output!r} ends in none of {suffixes}; give --format, or one of these suffixes."
    )
