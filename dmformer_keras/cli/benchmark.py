"""`dmformer benchmark`"""

import argparse
import json
import sys

import keras

from dmformer_keras.benchmark import contestants as participants
from dmformer_keras.benchmark import results
from dmformer_keras.benchmark.measurement import Settings, check_threads, measure, processors
from dmformer_keras.cli.arguments.benchmark import peers_of
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.machine import describe_machine

# The time that a contestant needs before its first turn on an idle machine.
_START_SECONDS = 20


def run(args):
    """Measures, prints and writes."""
    chosen = _contestants(args)
    baseline = args.baseline or args.names[0]
    _check_baseline(baseline, chosen)
    settings = Settings(
        threads=args.threads or len(processors()),
        rounds=args.rounds,
        seconds=args.seconds,
        timeout=args.timeout,
    )
    check_threads(settings.threads)
    if args.output:
        results.make_folder(args.output)
    if args.peers == "none":
        _report(_what_peers_add(args, chosen))
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
        raise DMFormerError(
            "No contestant could be measured, for the reasons above; choose others."
        )


def _contestants(args):
    peers = peers_of(args.peers, args.mode)
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


def _what_peers_add(args, chosen):
    """Says how many models `--peers` would add, and how long all would take."""
    peers = ",".join(participants.PEERS)
    others = set(_contestants(argparse.Namespace(**{**vars(args), "peers": peers}))) - set(chosen)
    number = sum(contestant.left_out() is None for contestant in others)
    seconds = (number + len(chosen)) * (_START_SECONDS + args.rounds * max(args.seconds, 1))
    return (
        f"Measuring {len(chosen)} model(s) alone; --peers {peers} would add {number} that are "
        f"installed here, and take {max(1, round(seconds / 60))} minute(s) or more."
    )


def _check_baseline(baseline, chosen):
    model, forms, runtime = participants.parse_name(baseline)
    for contestant in chosen:
        if (contestant.model, contestant.forms) == (model, forms) and (
            runtime in (None, contestant.runtime)
        ):
            return
    names = ", ".join(dict.fromkeys(contestant.name for contestant in chosen)) or "none"
    raise DMFormerError(
        f"The baseline {baseline!r} is not among the contestants; choose one of {names}."
    )


def _report(line):
    print(line, file=sys.stderr, flush=True)
