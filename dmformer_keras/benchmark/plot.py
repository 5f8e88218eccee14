"""The picture of a benchmark: images per second of each contestant."""

import numpy as np

from dmformer_keras.benchmark.contestants import LIMIT
from dmformer_keras.system.files import written_whole

_PEERS = ("keras", "keras-hub", "timm")
_OWN_COLOR, _PEER_COLOR = "C0", "0.6"
_BAR = 0.3  # height of a bar in inches
_AROUND = 0.9  # height of a panel's title and axis in inches


def draw_throughput(records, path, command):
    """Draws images per second as bars to a PNG file, a panel per setting, the fastest on top."""
    from matplotlib.figure import Figure

    panels = {}
    for record in records:
        if "summary" in record and record["model"] != LIMIT:
            height, width = record["image_size"]
            setting = (
                f"{record['mode']}, batch {record['batch_size']}, {height}x{width}, "
                f"{record['dtype']}"
            )
            panels.setdefault(setting, []).append(record)
    if not panels:
        return
    heights = [_AROUND + _BAR * len(panel) for panel in panels.values()]
    figure = Figure(figsize=(9, sum(heights) + _BAR), layout="constrained")
    for axes, (setting, panel) in zip(
        figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0],
        panels.items(),
        strict=True,
    ):
        _draw_panel(axes, panel)
        axes.set(title=setting, xlabel="images per second")
    figure.supxlabel(command, fontsize=6, wrap=True)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120)


def _draw_panel(axes, records):
    """A bar to the median, a line between the quartiles, and the median as a number."""
    records = sorted(records, key=_speed)
    medians = [_speed(record) for record in records]
    spreads = [record["summary"]["images_per_second"]["quartiles"] for record in records]
    bars = axes.barh(
        range(len(records)),
        medians,
        tick_label=[record["name"] for record in records],
        xerr=np.abs(np.array(spreads) - np.array(medians)[:, None]).T,
        color=[
            _PEER_COLOR if record["model"].partition("/")[0] in _PEERS else _OWN_COLOR
            for record in records
        ],
        error_kw={"elinewidth": 1},
    )
    axes.bar_label(bars, [f"{median:.1f}" for median in medians], padding=4, fontsize=8)
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _speed(record):
    return record["summary"]["images_per_second"]["median"]
