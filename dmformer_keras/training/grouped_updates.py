"""Which weights train at which learning rate, and which of them decay."""

from collections.abc import Sequence
from typing import Any

import keras

from dmformer_keras.checks import is_finite_number
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.grouped_optimizers import ParameterGroup, with_parameter_groups
from dmformer_keras.training.depths import layer_depths

__all__ = ["ParameterGroup", "parameter_groups", "with_parameter_groups"]


def parameter_groups(model: keras.Model, layer_decay: float = 1.0) -> list[ParameterGroup]:
    """Sorts the trainable weights of a model into groups.

    Kernels decay; biases, the weights of norms, and the factors of LayerScale do not. With a
    `layer_decay` below 1, the learning rate is multiplied by it for each layer further from the
    head: see `layer_depths`.

    Source: as in timm and mmsegmentation. What is a kernel, a weight whose name ends so, is this
    project's decision, which holds for Keras's layers, too.

    Args:
        model: `keras.Model`. With a `layer_decay` below 1 its `backbone` is a `DMFormerBackbone`.
        layer_decay: float in (0, 1].

    Returns:
        list of ParameterGroup, from the input to the head. Every trainable weight is in one.

    Raises:
        DMFormerError: `layer_decay` is out of range, or the backbone is not this project's.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> for group in parameter_groups(model):
    ...     print(group.weight_decay, group.learning_rate_factor, len(group.weights))
    True 1.0 107
    False 1.0 135
    >>> optimizer = with_parameter_groups(keras.optimizers.SGD)(0.1, weight_decay=1e-4)
    >>> optimizer.set_groups(parameter_groups(model, layer_decay=0.75))
    >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """
    if not is_finite_number(layer_decay) or not 0 < layer_decay <= 1:
        raise DMFormerError(f"layer_decay must be over 0 and at most 1, not {shown(layer_decay)}.")
    depths: Sequence[tuple[Any, int | None]]
    if layer_decay == 1:
        depths = [(weight, None) for weight in model.trainable_variables]
    else:
        depths = layer_depths(model)
    last = max((depth or 0 for _, depth in depths), default=0)
    sorted_weights: dict[tuple[int | None, bool], list[Any]] = {}
    for weight, depth in depths:
        sorted_weights.setdefault((depth, weight.name.endswith("kernel")), []).append(weight)
    return [
        ParameterGroup(
            depth,
            decays,
            1.0 if depth is None else layer_decay ** (last - depth),
            tuple(weights),
        )
        for (depth, decays), weights in sorted(
            sorted_weights.items(), key=lambda item: (item[0][0] or 0, not item[0][1])
        )
    ]
