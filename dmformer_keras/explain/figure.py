"""One picture of what a model sees in an image, and of what its attention does there."""

import dataclasses

import numpy as np

from dmformer_keras.data import resize_image
from dmformer_keras.errors import DMFormerError
from dmformer_keras.explain.attention import (
    effective_receptive_field,
    gate_values,
    level_activations,
)
from dmformer_keras.explain.class_activation import grad_cam
from dmformer_keras.explain.inside import blocks_of
from dmformer_keras.inference.mask_pictures import class_table, draw_overlay
from dmformer_keras.inference.model_outputs import (
    class_names_of,
    image_size_of,
    is_segmenter,
    to_probabilities,
)
from dmformer_keras.system.files import written_whole
from dmformer_keras.training.figures import can_draw

_COLUMNS = 4
_LEVELS_STAGE = "stage2"  # the stage whose levels are shown
# A receptive field is the square with this share of the gradient, averaged over so many images.
_FIELD_SHARE = 0.9
_SHIFTS = 8


def draw_explanation(model, image, path, classes=None):
    """Draws where a model sees its classes in an image, and what its levels and gates do; returns a
    list of GradCam, those shown.
    """
    _check_can_draw()
    from matplotlib.figure import Figure

    names = class_names_of(model)
    figure = Figure(figsize=(3.4 * _COLUMNS, 11), layout="constrained")
    seen, levels, insides = figure.subfigures(3, 1)
    found = _draw_classes(seen, model, image, classes, names)
    _draw_levels(levels, model, image)
    _draw_insides(insides, model, image)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=100, format="png")
    return found


def draw_gates(model, source, path, images_per_class=8):
    """Draws how the gates' values are distributed, by stage and by class of image; returns a dict
    of float32 arrays (images, channels of all the stage's blocks) by (stage, class name).
    """
    _check_can_draw()
    from matplotlib.figure import Figure

    size = image_size_of(model)
    found = {}
    for label, name in enumerate(source.class_names):
        indexes = np.flatnonzero(source.labels == label)[:images_per_class]
        if not len(indexes):
            continue
        images = np.stack([resize_image(source.read(int(index))[0], size) for index in indexes])
        for stage, values in _by_stage(gate_values(model, images)).items():
            found[stage, name] = values
    stages = list(dict.fromkeys(stage for stage, _ in found))
    figure = Figure(figsize=(3.4 * _COLUMNS, 4.5), layout="constrained")
    figure.suptitle(
        f"The gate of the channels, by class ({images_per_class} images each)", fontweight="bold"
    )
    for axes, stage in zip(figure.subplots(1, len(stages), sharey=True), stages, strict=True):
        own = {name: values for (other, name), values in found.items() if other == stage}
        axes.boxplot(
            [values.ravel() for values in own.values()], orientation="horizontal", whis=(5, 95),
            showfliers=False, tick_labels=list(own),
        )  # fmt: skip
        axes.set(title=stage, xlim=(0, 1))
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel("0 shuts a channel, 1 lets it pass; boxes are quarters, whiskers 5 to 95 %")
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=100, format="png")
    return found


def _check_can_draw():
    if not can_draw():
        raise DMFormerError(
            "Explanations are drawn by matplotlib, which is not installed; run "
            '`pip install "dmformer-keras[plots]"`.'
        )


def _by_stage(gates):
    """The gates of all blocks of each stage, side by side."""
    stages = {}
    for name, values in gates.items():
        stages.setdefault(name.partition("_")[0], []).append(values)
    return {stage: np.concatenate(values, axis=1) for stage, values in stages.items()}


def _draw_classes(figure, model, image, classes, names):
    figure.suptitle("What is seen, and where (Grad-CAM)", fontweight="bold")
    panels = _panels(figure)
    _show(next(panels), image, "the image")
    outputs = np.asarray(model.predict_on_batch(image[None].astype("float32")))[0]
    if is_segmenter(model):
        mask = outputs.argmax(axis=-1).astype("uint8" if outputs.shape[-1] <= 255 else "uint16")
        table = class_table(mask, names)
        shares = {names.index(name): share for name, _, share in table}
        overlay = np.asarray(draw_overlay(image, mask, class_colors=model.class_colors))
        _show(next(panels), overlay[: image.shape[0], : image.shape[1]], "the classes of pixels")
    else:
        probabilities = to_probabilities(outputs[None], model.activation)[0]
        likeliest = np.argsort(-probabilities, kind="stable")
        shares = {int(index): float(probabilities[index]) for index in likeliest}
    found = []
    for axes, index in zip(panels, list(shares) if classes is None else classes, strict=False):
        cam = dataclasses.replace(grad_cam(model, image, index), share=shares.get(index, 0.0))
        found.append(cam)
        _show(axes, image, f"{names[index]}, {100 * cam.share:.1f} %")
        axes.imshow(cam.heatmap, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
    return found


def _draw_levels(figure, model, image):
    figure.suptitle(
        f"What the levels of attention respond to (all blocks of {_LEVELS_STAGE})",
        fontweight="bold",
    )
    responses = level_activations(model, image[None])
    attention = next(iter(blocks_of(model).values())).attention
    titles = [
        f"{size}x{size}" + (f", dilation {dilation}" if dilation > 1 else "")
        for size, dilation in attention.levels
    ]
    panels = _panels(figure)
    stage = np.mean(
        [values[0] for name, values in responses.items() if name.startswith(_LEVELS_STAGE)], axis=0
    )
    for level, (title, axes) in enumerate(zip(titles, list(panels)[:-1], strict=False)):
        _show(axes, image, title)
        height, width = image.shape[:2]
        axes.imshow(
            stage[..., level], cmap="viridis", alpha=0.7, vmin=0, vmax=stage.max(),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear",
        )  # fmt: skip
    axes = figure.axes[-1]
    axes.set_axis_on()
    bottom = np.zeros(4)
    stages = [f"stage{number}" for number in range(1, 5)]
    totals = np.array([
        np.sum([values.mean(axis=(0, 1, 2)) for name, values in responses.items()
                if name.startswith(stage)], axis=0)
        for stage in stages
    ])  # fmt: skip
    shares = 100 * totals / np.maximum(totals.sum(axis=1, keepdims=True), 1e-12)
    for level, title in enumerate(titles):
        axes.bar(stages, shares[:, level], bottom=bottom, label=title)
        bottom += shares[:, level]
    axes.set(title="share of each level", ylabel="% of the mean response", ylim=(0, 100))
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(titles))


def _draw_insides(figure, model, image):
    figure.suptitle(
        "What the gate multiplies by, and how far the convolutions before a place see",
        fontweight="bold",
    )
    panels = list(_panels(figure))
    axes = panels[0]
    blocks = blocks_of(model)
    if any(block.attention.use_gate for block in blocks.values()):
        axes.set_axis_on()
        stages = _by_stage(gate_values(model, image[None]))
        axes.violinplot([values[0] for values in stages.values()], showmedians=True)
        axes.set_xticks(range(1, len(stages) + 1), list(stages))
        axes.set(title="gate of the channels", ylim=(0, 1), ylabel="0 shuts a channel, 1 lets it")
    else:
        axes.set_title("no gate")
    for axes, stage in zip(panels[1:], ("stage2", "stage3", "stage4"), strict=True):
        name = [block for block in blocks if block.startswith(stage)][-1]
        field = effective_receptive_field(model, _shifted(image), name, through_gates=False)
        _show(axes, image, f"{name}: 90 % in {_reach(field)} pixels")
        # Logarithmic: the middle is a thousand times as strong as the edge of the field.
        strength = np.log10(np.maximum(field / max(field.max(), 1e-12), 1e-4))
        axes.imshow(strength, cmap="magma", alpha=0.75, vmin=-4, vmax=0)


def _shifted(image):
    """Copies of an image, moved around, so that what lies in the middle does not decide."""
    rng = np.random.default_rng(0)
    shifts = rng.integers(0, image.shape[:2], (_SHIFTS, 2))
    return np.stack([np.roll(image, shift, axis=(0, 1)) for shift in shifts])


def _reach(field):
    """The side of the smallest square about the middle with most of a receptive field."""
    height, width = field.shape
    top, left = height // 2, width // 2
    for half in range(max(height, width)):
        square = field[max(top - half, 0) : top + half + 1, max(left - half, 0) : left + half + 1]
        if square.sum() >= _FIELD_SHARE * field.sum():
            return 2 * half + 1
    return max(height, width)


def _panels(figure):
    """The axes of a row, without frames until something asks for one."""
    for axes in figure.subplots(1, _COLUMNS):
        axes.set_axis_off()
    return iter(figure.axes)


def _show(axes, image, title):
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image[..., :3], cmap="gray", vmin=0,
                vmax=255)  # fmt: skip
    axes.set_title(title)
