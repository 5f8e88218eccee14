"""The arguments of `dmformer benchmark`."""

from dmformer_keras.benchmark import contestants as participants
from dmformer_keras.cli.arguments.shared import image_size, positive, positive_number
from dmformer_keras.errors import DMFormerError

_FORMS = "\n".join(f"  :{form:<13} {meaning}" for form, meaning in participants.FORMS.items())
DESCRIPTION = f"""\
Measure throughput, latency and peak memory of models. With --peers, compare them with models
of other libraries that are installed.

Every model runs in its own process. They take turns, in a different order in each round.
NAME is a preset or a model of another library: keras/NAME (keras.applications),
keras-hub/NAME or timm/NAME. Add @RUNTIME to choose its runtime, and :FORM to choose the form
of a preset: NAME:FORM@RUNTIME. Forms:
{_FORMS}
Weights are random: they do not change the speed."""
EPILOG = f"""\
runtimes: {", ".join(name for name in participants.RUNTIMES if name != "numpy")}

examples:
  dmformer benchmark dmformer_s
  dmformer benchmark dmformer_s dmformer_s:fused --peers keras,timm
  dmformer benchmark dmformer_s:fused --runtimes openvino onnxruntime torch-compile \\
      --peers timm --batch-size 1 8 --baseline timm/convnext_tiny --output results
  dmformer benchmark dmformer_t dmformer_t:plain --mode training \\
      --image-size 64 --batch-size 64 --baseline dmformer_t:plain
  dmformer benchmark dmformer_s:fused keras/ConvNeXtTiny --runtimes tflite
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="models to measure")
    parser.add_argument(
        "--peers",
        default="none",
        metavar="LIST",
        help="libraries whose models to measure as well, separated by commas: "
        f"{','.join(participants.PEERS)} (default: none)",
    )
    parser.add_argument(
        "--runtimes",
        nargs="+",
        choices=[name for name in participants.RUNTIMES if name != "numpy"],
        metavar="RUNTIME",
        help="runtimes to measure on (default: Keras's backend; torch for timm's models)",
    )
    parser.add_argument(
        "--mode",
        choices=participants.MODES,
        default="inference",
        help="what a step is (default: inference)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        nargs="+",
        default=[1],
        metavar="N",
        help="images per batch (default: 1)",
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        nargs="+",
        default=[[224, 224]],
        metavar="S|HxW",
        help="image size in pixels (default: 224)",
    )
    parser.add_argument(
        "--dtype",
        choices=participants.DTYPES,
        default="float32",
        help="precision to compute in (default: float32)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), default="cpu", help="device to run on (default: cpu)"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="processors to use (default: all)"
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="the model that the others are compared with; if its runtime is not given, the one "
        "on the same runtime (default: the first NAME)",
    )
    parser.add_argument(
        "--rounds", type=positive, default=11, metavar="N", help="turns per model (default: 11)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=1.0,
        metavar="T",
        help="minimum duration of a turn in seconds (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=positive_number,
        default=900.0,
        metavar="T",
        help="seconds to wait for a model before it is left out (default: 900)",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="write results.json, results.md and throughput.png"
    )
    parser.add_argument("--json", action="store_true", help="print the results on one line")


def check(args):
    """Checks what can be known at once."""
    peers_of(args.peers, args.mode)
    for name in [*args.names, *([args.baseline] if args.baseline else [])]:
        participants.parse_name(name)


def peers_of(text, mode):
    """Reads `--peers` as a list of names."""
    libraries = [] if text == "none" else text.split(",")
    unknown = [library for library in libraries if library not in participants.PEERS]
    if unknown:
        known = ",".join(participants.PEERS)
        raise DMFormerError(f"--peers takes libraries out of {known}, or none, not {unknown[0]!r}.")
    return [f"{library}/{name}" for library in libraries for name in
            participants.PEERS[library][mode]]  # fmt: skip
