"""Measures what this project promises of its speed, and says how far each promise is kept.

    python benchmarks/targets.py                     all groups: some hours on two cores
    python benchmarks/targets.py tensorflow tflite   those alone
    python benchmarks/targets.py --trial             a small model at 64 px: does it run?

Each group's contestants take turns in one run. Its folder under `benchmarks/results/` gets
`results.json`, `results.md`, `throughput.png` and `targets.json`; `targets.md` beside them
has the lines of all groups that were measured.
"""

import argparse
import dataclasses
import json
import shlex
import sys
from pathlib import Path

import numpy as np

from dmformer_keras import benchmark
from dmformer_keras.benchmark.contestants import LIMIT, limits
from dmformer_keras.benchmark.measurement import processors
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.files import written_whole
from dmformer_keras.system.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
CPU_RUNTIMES = ("tensorflow", "torch", "torch-compile", "onnxruntime", "openvino")
SIZES = (128, 192, 256, 384, 512)


@dataclasses.dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        measure: str, in words.
        kind: "ratio" of the best of `models` to the best of `others` in images per second;
            "latency" or "memory", the same of those; "limit", the fraction of the arithmetic
            limit; "spread" of images per second times pixels over the sizes.
        models: names with or without a runtime; the best one counts.
        others: the same.
        must: float or None.
        moonshot: float or None.
    """

    measure: str
    kind: str
    models: tuple
    others: tuple = ()
    must: float | None = None
    moonshot: float | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Contestants that take turns in one run, and what is promised of them."""

    names: tuple
    runtimes: tuple
    targets: tuple
    mode: str = "inference"
    batch_size: int = 8
    image_sizes: tuple = (224,)
    rounds: int = 9


def training_group(runtime, must, moonshot, peers=()):
    target = Target(
        f"{runtime}: T training step at 64 px, batch 64, over the plain form",
        "ratio",
        (f"dmformer_t@{runtime}",),
        (f"dmformer_t:plain@{runtime}",),
        must,
        moonshot,
    )
    names = ("dmformer_t", "dmformer_t:plain", *peers)
    return Group(names, (runtime,), (target,), "training", 64, (64,))


SMALL_PEERS = ("keras/EfficientNetV2B0", "keras/MobileNetV3Large", "keras/ResNet50V2")
GROUPS = {
    "tensorflow": Group(
        ("dmformer_s", "dmformer_s:fused", "keras/ResNet50V2", "keras/ConvNeXtTiny"),
        ("tensorflow",),
        (
            Target(
                "fused S over unfused S, TensorFlow",
                "ratio",
                ("dmformer_s:fused",),
                ("dmformer_s",),
                1.15,
                1.5,
            ),
            Target(
                "fused S over keras ResNet50V2, TensorFlow",
                "ratio",
                ("dmformer_s:fused",),
                ("keras/ResNet50V2",),
                0.65,
                0.9,
            ),
            Target(
                "fused S over keras ConvNeXtTiny, TensorFlow",
                "ratio",
                ("dmformer_s:fused",),
                ("keras/ConvNeXtTiny",),
                6,
                8,
            ),
        ),
    ),
    "runtimes": Group(
        (
            "dmformer_s:fused",
            # Keras's ConvNeXt on those that are ever its best: all are held in memory together.
            "keras/ConvNeXtTiny@tensorflow",
            "keras/ConvNeXtTiny@openvino",
            "timm/convnext_tiny",
            "timm/swin_tiny_patch4_window7_224",
        ),
        CPU_RUNTIMES,
        (
            Target(
                "fused S on its best CPU runtime over ConvNeXt-T on its best",
                "ratio",
                ("dmformer_s:fused",),
                ("keras/ConvNeXtTiny", "timm/convnext_tiny"),
                1.1,
                1.4,
            ),
            Target(
                "fused S on its best CPU runtime over Swin-T on its best",
                "ratio",
                ("dmformer_s:fused",),
                ("timm/swin_tiny_patch4_window7_224",),
                1.2,
                1.5,
            ),
            Target(
                "fraction of the sgemm limit, fused S on its best runtime",
                "limit",
                ("dmformer_s:fused",),
                must=0.6,
                moonshot=0.75,
            ),
        ),
    ),
    "jax": Group(
        ("dmformer_s", "dmformer_s:plain"),
        ("jax",),
        (
            Target(
                "JAX: S forward over the plain form",
                "ratio",
                ("dmformer_s",),
                ("dmformer_s:plain",),
                10,
                20,
            ),
        ),
        rounds=5,
    ),
    "training-tensorflow": training_group("tensorflow", 1.4, 2, SMALL_PEERS),
    "training-torch": training_group("torch", 1.4, 2),
    "training-jax": training_group("jax", 3, 10),
    "tflite": Group(
        ("dmformer_s:fused", "keras/ConvNeXtTiny"),
        ("tflite",),
        (
            Target(
                "TFLite float32, batch 1: fused S over ConvNeXtTiny, latency",
                "latency",
                ("dmformer_s:fused",),
                ("keras/ConvNeXtTiny",),
                0.55,
                0.45,
            ),
        ),
        batch_size=1,
    ),
    "sizes": Group(
        ("dmformer_s:fused",),
        ("tensorflow", "openvino"),
        tuple(
            Target(
                f"images/s x pixels from 128 to 512 px, spread, {runtime}",
                "spread",
                (f"dmformer_s:fused@{runtime}",),
                must=0.2,
                moonshot=0.1,
            )
            for runtime in ("tensorflow", "openvino")
        ),
        batch_size=8,
        image_sizes=SIZES,
    ),
    "memory": Group(
        ("dmformer_t", "dmformer_t:checkpointed"),
        ("tensorflow", "torch", "jax"),
        tuple(
            Target(
                f"{runtime}: peak memory of T's training step, checkpointed over not",
                "memory",
                (f"dmformer_t:checkpointed@{runtime}",),
                (f"dmformer_t@{runtime}",),
            )
            for runtime in ("tensorflow", "torch", "jax")
        ),
        mode="training",
        batch_size=16,
        image_sizes=(128,),
        rounds=5,
    ),
}


def contestants_of(group):
    """Returns the contestants of a group, the arithmetic limit among them."""
    found = [
        contestant
        for size in group.image_sizes
        for contestant in benchmark.contestants_of(
            group.names,
            group.runtimes,
            mode=group.mode,
            batch_size=group.batch_size,
            image_size=(size, size),
        )
    ]
    return found + limits()


def result_of(target, records):
    """Computes a target.

    Args:
        target: Target.
        records: list of dicts, summarized.

    Returns:
        dict: `median`, `quartiles` or None, and `of`, the names of those that counted; or
        `missing`, why there is none.
    """
    models = _named(target.models, records)
    others = _named(target.others, records)
    if not models or (target.others and not others):
        return {"missing": "not measured: " + ", ".join(target.others if models else target.models)}
    if target.kind == "spread":
        work = [_median(record) * np.prod(record["image_size"]) for record in models]
        spread = float(max(work) / min(work) - 1)
        return {"median": spread, "quartiles": None, "of": [models[0]["name"]]}
    best = max(models, key=_median)
    if target.kind == "limit":
        found = best["summary"].get("fraction_of_limit")
        return {**found, "of": [best["name"]]} if found else {"missing": "no limit was measured"}
    other = max(others, key=_median)
    names = [best["name"], other["name"]]
    if target.kind == "memory":
        share = best["peak_memory"] / other["peak_memory"]
        return {"median": share, "quartiles": None, "of": names}
    # Latency at the same batch size is the reciprocal of the throughput.
    first, second = (other, best) if target.kind == "latency" else (best, other)
    return {**benchmark.ratios(first, second), "of": names}


def line_of(target, result):
    """Returns a target's line of the Markdown table."""
    if "missing" in result:
        return f"| {target.measure} | {result['missing']} | | {_bounds(target)} | |"
    verdict = ""
    if target.must is not None:
        verdict = "missed"
        for name in ("must", "moonshot"):
            reached, bound = result["median"], getattr(target, name)
            at_most = target.kind in ("latency", "spread")
            if reached <= bound if at_most else reached >= bound:
                verdict = name
    quartiles = result["quartiles"]
    spread = f" ({quartiles[0]:.2f} to {quartiles[1]:.2f})" if quartiles else ""
    names = " over ".join(f"`{name}`" for name in result["of"])
    return (
        f"| {target.measure} | {result['median']:.2f}{spread} | {names} | {_bounds(target)} | "
        f"{verdict} |"
    )


def run_group(name, group, args):
    """Measures a group, writes its folder, and prints its lines."""
    print(f"== {name}", file=sys.stderr, flush=True)
    settings = benchmark.Settings(
        args.threads, args.rounds or group.rounds, args.seconds, args.timeout
    )
    records = benchmark.measure(contestants_of(group), settings, _report)
    benchmark.summarize(records, baseline=(group.targets[0].others or group.names)[0])
    folder = args.output / name
    machine = describe_machine(settings.threads)
    benchmark.write_results(folder, records, args.command, machine, settings)
    lines = []
    for target in group.targets:
        result = result_of(target, records)
        lines.append({**vars(target), **result, "line": line_of(target, result)})
        print(lines[-1]["line"], flush=True)
    with written_whole(folder / "targets.json") as path:
        path.write_text(json.dumps({"command": args.command, "lines": lines}, indent=1) + "\n")


def write_page(folder):
    """Writes `targets.md` from the groups that have been measured."""
    text = (
        "| measure | median (quartiles of the rounds) | of | must, moonshot | reached |\n"
        "|---|---|---|---|---|\n"
    )
    commands = []
    for name in GROUPS:
        path = folder / name / "targets.json"
        if path.is_file():
            measured = json.loads(path.read_text())
            commands.append(f"{name}: `{measured['command']}`")
            text += "".join(f"{line['line']}\n" for line in measured["lines"])
    text += "\nMade by\n" + "".join(f"- {command}\n" for command in commands)
    with written_whole(folder / "targets.md") as path:
        path.write_text(text)


def trial(group):
    """Returns the group with the smallest DMFormer at 64 px."""
    small = json.loads(
        json.dumps(dataclasses.asdict(group))
        .replace("dmformer_s", "dmformer_n")
        .replace("dmformer_t", "dmformer_n")
    )
    sizes = (64, 96) if len(group.image_sizes) > 1 else (64,)
    # A trial keeps no promise and breaks none.
    changes = {"must": None, "moonshot": None}
    targets = tuple(
        Target(
            **{
                **target,
                **changes,
                "measure": f"TRIAL, N at 64 px: {target['measure']}",
                "models": tuple(target["models"]),
                "others": tuple(target["others"]),
            }
        )
        for target in small["targets"]
    )
    return dataclasses.replace(
        group,
        names=tuple(small["names"]),
        targets=targets,
        image_sizes=sizes,
        batch_size=min(group.batch_size, 2),
        rounds=2,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument(
        "--output", type=Path, help="(default: benchmarks/results, of a trial runs/trial)"
    )
    parser.add_argument("--rounds", type=int, help="(default: the group's)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn, at least")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for an answer")
    parser.add_argument("--threads", type=int, default=len(processors()))
    parser.add_argument("--trial", action="store_true", help="a small model at 64 px")
    args = parser.parse_args()
    unknown = [name for name in args.groups if name not in GROUPS]
    if unknown:
        parser.error(f"there is no group {unknown[0]!r}; choose of {', '.join(GROUPS)}")
    args.output = args.output or (Path("runs/trial") if args.trial else RESULTS)
    args.command = shlex.join(["python", "benchmarks/targets.py", *sys.argv[1:]])
    for name in args.groups or GROUPS:
        run_group(name, trial(GROUPS[name]) if args.trial else GROUPS[name], args)
        write_page(args.output)


def _named(names, records):
    """Returns the measured records of these names, on any runtime where a name has none."""
    return [
        record
        for record in records
        if "summary" in record
        and record["model"] != LIMIT
        and (record["name"] in names or record["name"].partition("@")[0] in names)
    ]


def _median(record):
    return record["summary"]["images_per_second"]["median"]


def _bounds(target):
    return "" if target.must is None else f"{target.must:g}, {target.moonshot:g}"


def _report(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except DMFormerError as error:
        sys.exit(str(error))
