"""`dmformer benchmark`"""

import argparse
import json
import sys

import keras

from dmformer_keras.benchmark import contestants as participants
from dmformer_keras.benchmark import results
from dmformer_keras.benchmark.measurement import Settings, measure, processors
from dmformer_keras.cli.options import image_size
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.machine import describe_machine

_FORMS = "\n".join(f"  :{form:<13} {meaning}" for form, meaning in participants.FORMS.items())
DESCRIPTION = f"""\
Measure throughput, latency and peak memory of models beside the peers that are installed.

Every contestant runs in a process of its own, and all take turns, in another order each
round. A NAME is a preset or a peer, a preset's optionally with a form, and both with a runtime
of their own: NAME:FORM@RUNTIME. Forms:
{_FORMS}
Peers are keras/NAME of keras.applications, keras-hub/NAME and timm/NAME.
Weights are random: they do not change the speed."""
EPILOG = f"""\
runtimes: {", ".join(name for name in participants.RUNTIMES if name != "numpy")}

examples:
  dmformer benchmark dmformer_s dmformer_s:fused
  dmformer benchmark dmformer_s:fused --runtimes openvino onnxruntime torch-compile \\
      --peers timm --batch-size 1 8 --baseline timm/convnext_tiny --output results
  dmformer benchmark dmformer_t dmformer_t:plain --peers none --mode training \\
      --image-size 64 --batch-size 64 --baseline dmformer_t:plain
  dmformer benchmark dmformer_s:fused keras/ConvNeXtTiny --peers none --runtimes tflite
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="models to measure")
    parser.add_argument(
        "--peers",
        default="keras,keras-hub,timm",
        metavar="LIST",
        help="libraries whose models to measure beside, with commas between, or none "
        "(default: keras,keras-hub,timm)",
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
        "--batch-size", type=_positive, nargs="+", default=[1], metavar="N", help="(default: 1)"
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
        "--threads", type=_positive, metavar="N", help="processors to use (default: all)"
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="the contestant that the others are divided by; without a runtime, the one on the "
        "same runtime (default: the first NAME)",
    )
    parser.add_argument(
        "--rounds", type=_positive, default=11, metavar="N", help="turns of each (default: 11)"
    )
    parser.add_argument(
        "--seconds",
        type=_positive_number,
        default=1.0,
        metavar="T",
        help="the least that a turn lasts (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=_positive_number,
        default=900.0,
        metavar="T",
        help="seconds after which a contestant that does not answer is given up (default: 900)",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="write results.json, results.md and throughput.png"
    )
    parser.add_argument("--json", action="store_true", help="print the results on one line")


def run(args):
    """Measures, prints and writes."""
    chosen = _contestants(args)
    baseline = args.baseline or args.names[0]
    _check_baseline(baseline, chosen)
    if args.output:
        results.make_folder(args.output)
    settings = Settings(
        threads=args.threads or len(processors()),
        rounds=args.rounds,
        seconds=args.seconds,
        timeout=args.timeout,
    )
    records = []
    # Together in memory and in turns: what is compared, which is never two batch sizes.
    for size in dict.fromkeys(args.batch_size):
        group = [contestant for contestant in chosen if contestant.batch_size == size]
        group += participants.limits(args.dtype, args.device)
        measured = measure(group, settings, _report)
        records += results.summarize(measured, baseline)
    machine = describe_machine(settings.threads)
    if args.output:
        results.write_results(args.output, records, args.command_line, machine, settings)
    if args.json:
        print(json.dumps({"machine": machine, "contestants": records}))
    else:
        print(results.page(records, args.command_line, machine, settings), end="")
    if not any("summary" in record for record in records if record["model"] != participants.LIMIT):
        raise DMFormerError("No contestant could be measured; the reasons stand above.")


def _contestants(args):
    peers = _peers(args.peers, args.mode)
    runtimes = args.runtimes
    if runtimes is None:
        runtimes = [keras.config.backend()]
        if any(peer.startswith("timm/") for peer in (*peers, *args.names)):
            runtimes += ["torch"] if "torch" not in runtimes else []
    return [
        contestant
        for batch_size in dict.fromkeys(args.batch_size)
        for size in dict.fromkeys(map(tuple, args.image_size))
        for contestant in participants.contestants_of(
            [*args.names, *peers],
            runtimes,
            mode=args.mode,
            batch_size=batch_size,
            image_size=size,
            dtype=args.dtype,
            device=args.device,
        )
    ]


def _peers(text, mode):
    libraries = [] if text == "none" else text.split(",")
    unknown = [library for library in libraries if library not in participants.PEERS]
    if unknown:
        known = ",".join(participants.PEERS)
        raise DMFormerError(f"--peers takes libraries out of {known}, or none, not {unknown[0]!r}.")
    return [f"{library}/{name}" for library in libraries for name in
            participants.PEERS[library][mode]]  # fmt: skip


def _check_baseline(baseline, chosen):
    model, forms, runtime = participants.parse_name(baseline)
    for contestant in chosen:
        if (contestant.model, contestant.forms) == (model, forms) and (
            runtime in (None, contestant.runtime)
        ):
            return
    names = ", ".join(dict.fromkeys(contestant.name for contestant in chosen)) or "none"
    raise DMFormerError(f"The baseline {baseline!r} is not among the contestants: {names}.")


def _report(line):
    print(line, file=sys.stderr, flush=True)


def _positive(text):
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")


def _positive_number(text):
    try:
        number = float(text)
    except ValueError:
        number = 0
    if 0 < number < float("inf"):
        return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
