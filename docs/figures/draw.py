"""Draws the figures of docs/architecture.md: python docs/figures/draw.py"""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dmformer_keras.architectures import ARCHITECTURES

FOLDER = Path(__file__).parent
INPUT, CONVOLUTION, GATE, SUM = "#e8e8e8", "#cfe2f3", "#fce5cd", "#ffffff"


def box(axes, x, y, text, color, width=1.7, height=0.62):
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height,
            boxstyle="round,pad=0.02,rounding_size=0.1", facecolor=color, edgecolor="#444444",
        )
    )  # fmt: skip
    axes.text(x, y, text, ha="center", va="center", fontsize=8)


def arrow(axes, start, end, bend=None):
    style = {"arrowstyle": "-|>", "color": "#444444", "shrinkA": 0, "shrinkB": 0}
    if bend is not None:
        style["connectionstyle"] = bend
    axes.annotate("", end, start, arrowprops=style)


def canvas(width, height, right, top):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, right), ylim=(0, top), aspect="equal")
    axes.set_axis_off()
    return figure, axes


def draw_attention():
    figure, axes = canvas(9.5, 4.6, 13.4, 6.5)
    box(axes, 1, 3, "X\nC channels", INPUT)
    box(axes, 3.3, 3, "Conv 1x1\nC to 3C", CONVOLUTION)
    levels = [(4.6, "3x3"), (3, "5x5, dilation 2"), (1.4, "7x7, dilation 3")]
    for y, text in levels:
        box(axes, 5.7, y, f"depthwise\n{text}", CONVOLUTION)
        arrow(axes, (4.15, 3), (4.85, y))
        arrow(axes, (6.55, y), (7.1, 3))
    box(axes, 7.95, 3, "BatchNorm\nReLU", CONVOLUTION)
    box(axes, 9.9, 3, "Conv 1x1\n3C to C", CONVOLUTION, width=1.4)
    box(axes, 11.0, 3, "+", SUM, width=0.4, height=0.4)
    box(axes, 12.2, 3, "Conv 1x1\nC to C", CONVOLUTION, width=1.4)
    for start, end in ((1.85, 2.45), (8.8, 9.2), (10.6, 10.8), (11.2, 11.5)):
        arrow(axes, (start, 3), (end, 3))
    axes.plot([1, 1, 11], [2.69, 0.5, 0.5], color="#444444", linewidth=1)
    arrow(axes, (11, 0.5), (11, 2.8))
    axes.text(6, 0.62, "inner residual", ha="center", fontsize=8, color="#444444")
    box(axes, 3.3, 5.9, "mean over\nall positions", GATE)
    box(axes, 5.7, 5.9, "dense, ReLU\nC to C/4", GATE)
    box(axes, 7.95, 5.9, "dense, sigmoid\nC/4 to C", GATE)
    axes.plot([1, 1], [3.31, 5.9], color="#444444", linewidth=1)
    arrow(axes, (1, 5.9), (2.45, 5.9))
    arrow(axes, (4.15, 5.9), (4.85, 5.9))
    arrow(axes, (6.55, 5.9), (7.1, 5.9))
    box(axes, 12.2, 5.2, "x", SUM, width=0.4, height=0.4)
    axes.plot([8.8, 12.2], [5.9, 5.9], color="#444444", linewidth=1)
    arrow(axes, (12.2, 5.9), (12.2, 5.4))
    arrow(axes, (12.2, 3.31), (12.2, 5.0))
    arrow(axes, (12.4, 5.2), (13.3, 5.2))
    figure.savefig(FOLDER / "attention.svg", metadata={"Date": None})


def draw_stages():
    config = ARCHITECTURES["dmformer_s"]["config"]
    figure, axes = canvas(9.5, 2.9, 13.4, 4.1)
    box(axes, 0.9, 2.6, "image\nH x W", INPUT, width=1.4)
    box(axes, 2.9, 2.6, "stem\n7x7 stride 2\n3x3\n2x2 stride 2", CONVOLUTION, width=1.6,
        height=1.5)  # fmt: skip
    arrow(axes, (1.6, 2.6), (2.1, 2.6))
    for stage, (channels, depth) in enumerate(
        zip(config["channels"], config["depths"], strict=True)
    ):
        x = 5.1 + 2.35 * stage
        step = "" if stage == 0 else "2x2 stride 2\n"
        box(axes, x, 2.6, f"stage {stage + 1}\n{step}{depth} blocks\n{channels} channels",
            CONVOLUTION, width=1.75, height=1.5)  # fmt: skip
        arrow(axes, (x - 1.4 if stage == 0 else x - 1.475, 2.6), (x - 0.875, 2.6))
        arrow(axes, (x, 1.85), (x, 1.15))
        axes.text(x, 0.85, f"P{stage + 2}: 1/{4 * 2**stage}", ha="center", fontsize=8)
    axes.text(6.7, 0.25, "a block: x + DMA(BatchNorm(x)), then x + MLP(BatchNorm(x))", ha="center",
              fontsize=8, color="#444444")  # fmt: skip
    axes.text(6.7, 3.75, "DMFormer-S", ha="center", fontsize=9, fontweight="bold")
    figure.savefig(FOLDER / "stages.svg", metadata={"Date": None})


if __name__ == "__main__":
    # Without ids drawn at random, the files change only with the drawing.
    with rc_context({"svg.hashsalt": "dmformer"}):
        draw_attention()
        draw_stages()
