"""Pictures of a training run: its curves, and its confusion matrix."""

import importlib.util

import numpy as np

from dmformer_keras.system.files import written_whole

# The most classes with legible numbers in the cells, and with legible names on the axes.
_MOST_NUMBERS, _MOST_NAMES = 20, 50
_LONGEST_NAME = 24


def can_draw():
    """Tells whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curves(history, charts, path):
    """Draws columns of a history over the epochs to a PNG file."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(5 * len(charts), 4)
    all_axes = figure.subplots(1, len(charts), squeeze=False)[0]
    for axes, (title, unit, lines) in zip(all_axes, charts, strict=True):
        for label, (column, factor) in lines.items():
            rows = [row for row in history if column in row]
            epochs = [row["epoch"] for row in rows]
            values = [factor * row[column] for row in rows]
            axes.plot(epochs, values, label=label, marker="o", markersize=3)
        axes.set(title=title, xlabel="epoch", ylabel=unit)
        if not unit.endswith("%)") and unit != "%":
            axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def draw_confusion_matrix(evaluation, path, title):
    """Draws the shares of each true class that were taken for each class to a PNG file."""
    counts = evaluation.confusion
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    side = min(14, max(5, 3 + 0.45 * classes))
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    if classes <= _MOST_NAMES:
        names = [_shortened(name) for name in evaluation.class_names]
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    if classes <= _MOST_NUMBERS:
        for row, column in np.argwhere(counts):
            axes.text(
                column,
                row,
                counts[row, column],
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 50 else "black",
            )
    _save(figure, path)


def _figure(width, height):
    from matplotlib.figure import Figure

    # Not pyplot: it keeps figures alive and may look for a display.
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, path):
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120)


def _shortened(name):
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."
