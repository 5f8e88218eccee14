"""The arguments of `dmformer benchmark`."""

from dmformer_keras.benchmark import contestants as participants
from dmformer_keras.cli.arguments.shared import image_size, positive, positive_number
from dmformer_keras.errors import DMFormerError

_FORMS = "\n".join(f"  :{form:<13} {meaning}" for form, meaning in participants.FORMS.items())
DESCRIPTION = f"""\
Measure throughput, latency and peak memory of models, with --peers beside those of other
libraries that are installed.

Every contestant runs in a process of its own, and all take turns, in another order each
round. A NAME is a preset or a peer, a preset's optionally with a form, and both with a runtime
of their own: NAME:FORM@RUNTIME. Forms:
{_FORMS}
Peers are keras/NAME of keras.applications, keras-hub/NAME and timm/NAME.
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
        help="libraries whose models to measure beside, with commas between: "
        f"{','.join(participants.PEERS)} (default: none)",
    )
    parser.add_argument(
        "--runtimes",
        nargs="+",
        choices=[name for name in participants.RUNTIMES if name != "numpy"],
        metavar="RUNTIME",
        help="(default: Keras's backend, and torch for timm's models)",
    )
    parser.add_argument("--mode", choices=participants.MODES, default="inference")
    parser.add_argument(
        "--batch-size", type=positive, nargs="+", default=[1], metavar="N", help="(default: 1)"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        nargs="+",
        default=[[224, 224]],
        metavar="S|HxW",
        help="in pixels (default: 224)",
    )
    parser.add_argument("--dtype", choices=participants.DTYPES, default="float32")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="processors to use (default: all)"
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="the contestant that the others are divided by; without a runtime, the one on the "
        "same runtime (default: the first NAME)",
    )
    parser.add_argument(
        "--rounds", type=positive, default=11, metavar="N", help="turns of each (default: 11)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=1.0,
        metavar="T",
        help="the least that a turn lasts (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=positive_number,
        default=900.0,
        metavar="T",
        help="seconds after which a contestant that does not answer is given up (default: 900)",
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
