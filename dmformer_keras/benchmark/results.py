"""What was measured, as numbers, a table, a plot and files."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from dmformer_keras.benchmark.contestants import LIMIT
from dmformer_keras.benchmark.measurement import Settings
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.files import written_whole
from dmformer_keras.system.machine import machine_sentence
from dmformer_keras.type_names import PathLike

# The backward pass costs two forward passes: gradients of the inputs and of the weights.
_PASSES = {"inference": 1, "training": 3}
_MEGABYTE = 1e6


def summarize(records: list[dict[str, Any]], baseline: str | None = None) -> list[dict[str, Any]]:
    """Adds a `summary` to each measured record.

    Args:
        records: list of dicts, as `measure` returns.
        baseline: name of the contestant that the others are divided by, without its
            runtime for the one on each contestant's own; None for no ratios.

    Returns:
        The records. A summary holds, each as {"median", "quartiles"}: `images_per_second`,
        `latency` in seconds, and where known `fraction_of_limit` (of the arithmetic limit
        in the same round) and `ratio` (to the baseline in the same round).
    """
    measured = [record for record in records if record["rounds"]]
    limit = _limit(measured)
    for record in measured:
        throughput = _throughput(record)
        summary = {
            "images_per_second": _spread(throughput),
            "latency": _spread([seconds for times in record["rounds"] for seconds in times]),
        }
        operations = _operations(record)
        if limit is not None and operations:
            summary["fraction_of_limit"] = _spread(_divided(throughput * operations, limit))
        other = _baseline_of(record, measured, baseline)
        if other is not None:
            summary["ratio"] = ratios(record, other)
        record["summary"] = summary
    return records


def ratios(record: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Divides the throughput of two contestants round by round.

    Args:
        record: dict, as `measure` returns.
        other: dict, of the same call.

    Returns:
        dict: `median` and `quartiles` of the ratios.
    """
    return _spread(_divided(_throughput(record), _throughput(other)))


def table(records):
    """Returns a Markdown table of summarized records, the fastest first."""
    heads = [
        "contestant", "batch", "images/s", "latency (ms)", "ratio", "of the limit", "memory (MB)",
        "parameters (M)", "GMACs",
    ]  # fmt: skip
    if len({record["image_size"] for record in records if record["model"] != LIMIT}) > 1:
        heads.insert(2, "size")
    lines = [" | ".join(heads), " | ".join(["---"] + ["---:"] * (len(heads) - 1))]
    measured = [record for record in records if "summary" in record and record["model"] != LIMIT]
    speed = [record["summary"]["images_per_second"]["median"] for record in measured]
    for index in np.argsort(speed)[::-1]:
        cells = _cells(measured[index])
        lines.append(" | ".join(cells[head] for head in heads))
    return "".join(f"| {line} |\n" for line in lines)


def notes(records):
    """Returns sentences on what the table does not show: the limit, and who is missing."""
    lines = []
    for record in records:
        if record["status"] != "measured":
            lines.append(f"{record['name']} {record['status']}: {record['reason']}.")
        elif record["model"] == LIMIT and "summary" in record:
            speed = record["summary"]["images_per_second"]["median"]
            speed *= 2 * record["multiply_accumulates"] / 1e9
            lines.append(f"Matrix products by {record['runtime']}: {speed:,.0f} GFLOP/s.")
        elif np.median(record.get("idle_cpu") or 0) > 0.05:
            share = np.median(record["idle_cpu"])
            lines.append(f"{record['name']} used {share:.0%} of a processor in others' turns.")
    return lines


def write_results(
    folder: PathLike,
    records: list[dict[str, Any]],
    command: str,
    machine: dict[str, Any],
    settings: Settings,
) -> None:
    """Writes `results.json`, `results.md` and, with matplotlib, `throughput.png`.

    Args:
        folder: str or path, made if absent.
        records: list of dicts, summarized.
        command: str, what made them.
        machine: dict, of `describe_machine`.
        settings: Settings.

    Raises:
        DMFormerError: the folder cannot be written.
    """
    folder = make_folder(folder)
    everything = {
        "command": command,
        "machine": machine,
        "settings": vars(settings),
        "contestants": records,
    }
    with written_whole(folder / "results.json") as path:
        path.write_text(json.dumps(everything, indent=1) + "\n")
    with written_whole(folder / "results.md") as path:
        path.write_text(page(records, command, machine, settings))
    if importlib.util.find_spec("matplotlib"):
        from dmformer_keras.benchmark.plot import draw_throughput

        draw_throughput(records, folder / "throughput.png", command)


def page(records, command, machine, settings):
    """Returns the Markdown page of results: command, machine, table, notes."""
    groups = {}
    for record in records:
        groups.setdefault((record["mode"], record["dtype"]), []).append(record)
    described = [f"`{command}`", "", machine_sentence(machine), ""]
    described += [
        f"{settings.rounds} rounds, each contestant in turn for at least {settings.seconds:g} s. "
        "Medians; after ± half the distance between the quartiles.",
    ]
    for (mode, dtype), group in groups.items():
        if any(record["model"] != LIMIT for record in group):
            described += ["", f"{mode.capitalize()}, {dtype}:", "", table(group).rstrip()]
    described += ["", *(f"- {note}" for note in notes(records))]
    return "\n".join(described) + "\n"


def make_folder(folder: PathLike) -> Path:
    """Makes a folder for results, or raises DMFormerError; returns its Path."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writing-results").touch()
        (folder / ".writing-results").unlink()
    except OSError as error:
        raise DMFormerError(
            f"The results cannot be written to {folder} ({error.strerror}); choose another "
            "folder with --output."
        ) from error
    return folder


def _limit(measured):
    """Returns the FLOP/s of the faster matrix product, round by round, or None."""
    speeds = [
        _throughput(record) * 2 * record["multiply_accumulates"]
        for record in measured
        if record["model"] == LIMIT
    ]
    return max(speeds, key=np.median, default=None)


def _throughput(record):
    """Returns the images per second of each round."""
    return np.array([record["batch_size"] * len(times) / sum(times) for times in record["rounds"]])


def _operations(record):
    """Returns the floating-point operations that an image takes, or None."""
    if not record["multiply_accumulates"] or record["model"] == LIMIT:
        return None
    return 2 * record["multiply_accumulates"] * _PASSES[record["mode"]]


def _baseline_of(record, measured, baseline):
    if baseline is None or record["model"] == LIMIT:
        return None
    names = (baseline, f"{baseline}@{record['runtime']}")
    alike = ("mode", "batch_size", "image_size", "dtype", "device")
    for other in measured:
        if other["name"] in names and all(other[key] == record[key] for key in alike):
            return other
    return None


def _divided(values, others):
    # A contestant that failed midway has fewer rounds: compare the first rounds of both.
    count = min(len(values), len(others))
    return values[:count] / others[:count]


def _spread(values):
    low, median, high = np.percentile(values, (25, 50, 75))
    return {"median": float(median), "quartiles": [float(low), float(high)]}


def _cells(record):
    summary = record["summary"]
    operations = record["multiply_accumulates"]
    return {
        "contestant": record["name"],
        "batch": str(record["batch_size"]),
        "size": "x".join(map(str, record["image_size"])),
        "images/s": _shown(summary["images_per_second"], 1, "{:.1f}"),
        "latency (ms)": _shown(summary["latency"], 1e3, "{:.1f}"),
        "ratio": _shown(summary.get("ratio"), 1, "{:.2f}"),
        "of the limit": _shown(summary.get("fraction_of_limit"), 1, "{:.2f}"),
        "memory (MB)": f"{record['peak_memory'] / _MEGABYTE:,.0f}",
        "parameters (M)": f"{record['parameters'] / 1e6:.1f}",
        "GMACs": f"{operations / 1e9:.2f}" if operations else "",
    }


def _shown(spread, scale, form):
    if spread is None:
        return ""
    low, high = spread["quartiles"]
    half = form.format(scale * (high - low) / 2)
    return f"{form.format(scale * spread['median'])} ± {half}"
