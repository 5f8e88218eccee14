"""How far each weight lies from the input, for learning rates that decay towards it."""

import re

import keras

from dmformer_keras.backbone import DMFormerBackbone
from dmformer_keras.errors import DMFormerError

_STAGE = re.compile(r"stage(\d)_(downsample|block(\d+))")


def layer_depths(model: keras.Model) -> list[tuple[keras.Variable, int]]:
    """Counts each trainable weight's layers from the input: the stem, the blocks, the head.

    The stem is 0, the blocks follow from 1, each with the convolution that leads to its
    stage, and whatever is not the backbone's is the last.

    Source: the layer-wise learning-rate decay of BEiT and ConvNeXt; one layer a block is
    this project's decision.

    Args:
        model: `DMFormerClassifier`, `SemanticFPN`, `UPerNet`, or a `keras.Model` with a
            `DMFormerBackbone` as its `backbone`.

    Returns:
        list of (weight, int), every trainable weight of the model once, in the model's order.

    Raises:
        DMFormerError: the backbone is not this project's.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> depths = [depth for _, depth in layer_depths(model)]
    >>> min(depths), max(depths), len(depths) == len(model.trainable_variables)
    (0, 11, True)
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, DMFormerBackbone):
        raise DMFormerError(
            f"layer_decay counts the blocks of a DMFormerBackbone, and the model's backbone is a "
            f"{type(backbone).__name__}; use layer_decay=1."
        )
    blocks = backbone.get_config()["depths"]
    depth_of = {
        id(weight): _depth(layer.name, blocks)
        for layer in backbone.layers
        for weight in layer.trainable_variables
    }
    last = sum(blocks) + 1
    return [(weight, depth_of.get(id(weight), last)) for weight in model.trainable_variables]


def _depth(layer_name, blocks):
    match = _STAGE.match(layer_name)
    if match is None:
        return 0
    before = sum(blocks[: int(match[1]) - 1])
    return before + (int(match[3]) if match[3] else 1)
