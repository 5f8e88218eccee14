"""The picture of a benchmark: throughput against multiply-accumulates."""

import numpy as np

from dmformer_keras.benchmark.contestants import LIMIT
from dmformer_keras.system.files import written_whole

_MARKERS = {"dmformer": "o", "keras": "s", "keras-hub": "^", "timm": "D"}


def draw_throughput(records, path, command):
    """Draws throughput against multiply-accumulates to a PNG file, a panel for each setting.

    Args:
        records: list of dicts, summarized.
        path: str or path of the file.
        command: str, what made the results.
    """
    from matplotlib.figure import Figure

    panels = {}
    for record in records:
        drawable = "summary" in record and record["multiply_accumulates"]
        if drawable and record["model"] != LIMIT:
            height, width = record["image_size"]
            key = (
                f"{record['mode']}, batch {record['batch_size']}, {height}x{width}, "
                f"{record['dtype']}"
            )
            panels.setdefault(key, []).append(record)
    if not panels:
        return
    figure = Figure(figsize=(9, 6 * len(panels)), layout="constrained")
    runtimes = sorted({record["runtime"] for record in records})
    colors = {runtime: f"C{index % 10}" for index, runtime in enumerate(runtimes)}
    for axes, (title, panel) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
    ):
        _draw_panel(axes, panel, colors)
        axes.set(
            title=title,
            xlabel="multiply-accumulates of an image's forward pass (10⁹)",
            ylabel="images a second",
            xscale="log",
            yscale="log",
        )
        axes.grid(alpha=0.3, which="both")
        axes.legend(title="runtime")
    figure.supxlabel(command, fontsize=6, wrap=True)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120)


def _draw_panel(axes, records, colors):
    named = set()
    for record in records:
        speed = record["summary"]["images_per_second"]
        operations = record["multiply_accumulates"] / 1e9
        runtime = record["runtime"]
        axes.errorbar(
            operations,
            speed["median"],
            yerr=np.abs(np.subtract(speed["quartiles"], speed["median"]))[:, None],
            fmt=_MARKERS[_library(record)],
            color=colors[runtime],
            label=None if runtime in named else runtime,
        )
        named.add(runtime)
        axes.annotate(
            record["name"].partition("@")[0],
            (operations, speed["median"]),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=7,
        )


def _library(record):
    library = record["model"].partition("/")[0]
    return library if library in _MARKERS else "dmformer"
