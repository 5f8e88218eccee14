"""What Dynamic Multi-level Attention does: its gate, its levels, and how far it sees."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from dmformer_keras.errors import DMFormerError
from dmformer_keras.explain.inside import (
    blocks_of,
    changed_outputs,
    checked_images,
    gradient,
    outputs_of,
)
from dmformer_keras.layers.common import channel_axis
from dmformer_keras.layers.fused import FusedMultilevelAttention


def gate_values(model: keras.Model, images: ArrayLike) -> dict[str, NDArray[np.float32]]:
    """What the gate of each block multiplies the channels by, image by image.

    Args:
        model: `keras.Model` with a DMFormer backbone, which may be nested.
        images: array (number, height, width, channels) in 0..255.

    Returns:
        dict of float32 arrays (number, channels) in 0..1 by the name of the block, in the order of
        the network.

    Raises:
        DMFormerError: the model has no gates, or the images do not fit it.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(32, 32, 3), num_classes=10)
    >>> values = gate_values(model, np.zeros((2, 32, 32, 3)))
    >>> len(values), values["stage4_block2"].shape
    (10, (2, 192))
    """
    attentions = _attentions(model)
    gates = {name: layer.gate_expand for name, layer in attentions.items() if layer.use_gate}
    if not gates:
        raise DMFormerError(
            f"{model.name!r} was built with use_gate=False and has no gates; give a model "
            "that has them."
        )
    _, seen = outputs_of(model, gates, checked_images(model, images))
    return {name: ops.convert_to_numpy(values).astype("float32") for name, values in seen.items()}


def level_activations(model: keras.Model, images: ArrayLike) -> dict[str, NDArray[np.float32]]:
    """How strongly each level of each block responds at each place.

    Args:
        model: `keras.Model` with a DMFormer backbone, which may be nested.
        images: array (number, height, width, channels) in 0..255.

    Returns:
        dict of float32 arrays (number, block height, block width, levels), 0 or more: the mean
        over a level's channels of what its BatchNorm and ReLU let through; by the name of the
        block, in the order of the network.

    Raises:
        DMFormerError: the images do not fit the model.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(32, 32, 3), num_classes=10)
    >>> level_activations(model, np.zeros((2, 32, 32, 3)))["stage1_block1"].shape
    (2, 8, 8, 3)
    """
    attentions = _attentions(model)
    watched = {
        (name, level): layer
        for name, attention in attentions.items()
        for level, layer in enumerate(_level_layers(attention))
    }
    _, seen = outputs_of(model, watched, checked_images(model, images))
    found: dict[str, list[NDArray[np.float32]]] = {}
    for (name, _), response in seen.items():
        values = np.maximum(ops.convert_to_numpy(response).astype("float32"), 0)
        attention = attentions[name]
        values = np.moveaxis(values, channel_axis(attention.data_format), -1)
        levels = len(attention.levels) // len(_level_layers(attention))
        found.setdefault(name, []).append(values.reshape(*values.shape[:3], levels, -1).mean(-1))
    return {name: np.concatenate(levels, axis=-1) for name, levels in found.items()}


def _level_layers(attention):
    """The layers that give the levels: one for each, or one for all of them."""
    if isinstance(attention, FusedMultilevelAttention):
        return attention.depthwise
    return [attention.norm]


def effective_receptive_field(
    model: keras.Model, images: ArrayLike, block: str | None = None, through_gates: bool = True
) -> NDArray[np.float32]:
    """How much each pixel of an image has to do with the feature in the middle of a block's map.

    Source: Luo et al. 2016, the gradient of the middle feature with respect to the image; here
    the mean of its absolute value over images.

    Args:
        model: `keras.Model` with a DMFormer backbone, which may be nested.
        images: array (number, height, width, channels) in 0..255.
        block: str, such as "stage2_block1", or None for the last.
        through_gates: bool. The gates see the whole image; False leaves out what comes by them,
            so that what the convolutions reach is seen.

    Returns:
        float32 array (height, width), 0 or more, that adds up to 1.

    Raises:
        DMFormerError: there is no such block, or the images do not fit the model.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3))
    >>> field = effective_receptive_field(model, images, "stage1_block2")
    >>> field.shape, bool(field[28:36, 28:36].sum() > field[:8, :8].sum())
    ((64, 64), True)
    """
    blocks = blocks_of(model)
    if block is not None and block not in blocks:
        raise DMFormerError(
            f"The model has no DMFormer block {block!r}; choose one of {', '.join(blocks)}."
        )
    layer = blocks[block or list(blocks)[-1]]
    is_last = layer.data_format == "channels_last"

    fixed = []
    if not through_gates:
        gates = (one.gate_expand for one in _attentions(model).values() if one.use_gate)
        fixed = [(gate, ops.stop_gradient) for gate in gates]

    def middle(values):
        with changed_outputs(fixed):
            _, seen = outputs_of(model, {"block": layer}, values)
        features = seen["block"] if is_last else ops.transpose(seen["block"], (0, 2, 3, 1))
        height, width = features.shape[1:3]
        return ops.sum(ops.cast(features[:, height // 2, width // 2], "float32"))

    # One image at a time, for the gradient takes the memory of all feature maps.
    slopes = np.concatenate([gradient(middle, one[None]) for one in checked_images(model, images)])
    backbone_axis = -1 if is_last else 1
    field = np.abs(slopes).sum(axis=backbone_axis).mean(axis=0)
    return (field / max(field.sum(), 1e-12)).astype("float32")


def _attentions(model):
    return {name: block.attention for name, block in blocks_of(model).items()}
