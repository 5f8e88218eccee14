"""Builds the models that are compared: random weights, 1,000 classes."""

import sys

import numpy as np

from dmformer_keras.errors import DMFormerError

CLASSES = 1000
_HUB = {
    "resnet50": (
        "ResNetBackbone",
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 128, 256, 512],
            "stackwise_num_blocks": [3, 4, 6, 3],
            "stackwise_num_strides": [1, 2, 2, 2],
            "block_type": "bottleneck_block",
        },
    ),
    "mit_b2": (
        "MiTBackbone",
        {
            "layerwise_depths": [3, 4, 6, 3],
            "num_layers": 4,
            "layerwise_num_heads": [1, 2, 5, 8],
            "layerwise_sr_ratios": [8, 4, 2, 1],
            "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7, 3, 3, 3],
            "layerwise_strides": [4, 2, 2, 2],
            "hidden_dims": [64, 128, 320, 512],
        },
    ),
    "swin_tiny": (
        "SwinTransformerBackbone",
        {
            "embed_dim": 96,
            "depths": (2, 2, 6, 2),
            "num_heads": (3, 6, 12, 24),
            "window_size": 7,
        },
    ),
}
# The counter of operations does not count the matrix products of attention.
_UNCOUNTED = ("keras-hub/mit_b2", "keras-hub/swin_tiny")


def build_keras_model(contestant):
    """Builds a DMFormer, or a peer of keras.applications or KerasHub; returns `keras.Model` from
    images to logits.
    """
    import keras

    keras.utils.set_random_seed(0)
    # The peers have no dtype argument.
    keras.config.set_dtype_policy(contestant.dtype)
    shape = (*contestant.image_size, 3)
    _, _, name = contestant.model.partition("/")
    if contestant.library == "keras":
        return _of_applications(name, shape)
    if contestant.library == "keras-hub":
        return _of_keras_hub(name, shape)
    return _dmformer(contestant, shape)


def count_keras_model(contestant, model):
    """Returns (parameters, multiply-accumulates of an image or None where uncounted)."""
    from dmformer_keras.complexity import count_multiply_accumulates

    counted = contestant.model not in _UNCOUNTED
    return model.count_params(), count_multiply_accumulates(model) if counted else None


def build_timm_model(contestant):
    """Builds a peer of timm in float32; returns (`torch.nn.Module` in inference mode, parameters,
    multiply-accumulates of an image).
    """
    import torch

    _import_torchvision()
    import timm

    torch.manual_seed(0)
    _, _, name = contestant.model.partition("/")
    if not timm.is_model(name):
        raise DMFormerError(f"timm has no model {name!r}; choose one of `timm.list_models()`.")
    fixed = timm.get_pretrained_cfg(name, allow_unregistered=True).fixed_input_size
    size = {"img_size": contestant.image_size} if fixed else {}
    model = timm.create_model(name, num_classes=CLASSES, **size).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return model, parameters, _count_torch(model, contestant.image_size)


def random_images(contestant):
    """Returns the batch that a contestant sees, as its library wants it: a float32 array: (batch,
    height, width, 3) in 0..255; timm's (batch, 3, height, width), standardized.
    """
    random = np.random.default_rng(0)
    height, width = contestant.image_size
    if contestant.library == "timm":
        shape = (contestant.batch_size, 3, height, width)
        return random.normal(size=shape).astype("float32")
    shape = (contestant.batch_size, height, width, 3)
    return random.uniform(0, 255, shape).astype("float32")


def random_labels(contestant):
    """Returns int64 array (batch,) of classes."""
    return np.random.default_rng(1).integers(0, CLASSES, contestant.batch_size)


def _dmformer(contestant, shape):
    from dmformer_keras.classifier import DMFormerClassifier

    if "plain" in contestant.forms:
        from dmformer_keras.layers import convolution

        # In this process, Keras's own layers take the place of this project's faster ones.
        for layer in (
            convolution.Convolution,
            convolution.DepthwiseConvolution,
            convolution.BatchNorm,
        ):
            del layer.call
    options = {"gradient_checkpointing": True} if "checkpointed" in contestant.forms else {}
    model = DMFormerClassifier.from_preset(
        contestant.model,
        load_weights=False,
        num_classes=CLASSES,
        input_shape=shape,
        dtype=contestant.dtype,
        data_format="channels_last",
        **options,
    )
    if "fused" in contestant.forms:
        from dmformer_keras.fusing import fuse

        model = fuse(model)
    return model


def _of_applications(name, shape):
    import keras

    build = getattr(keras.applications, name, None)
    if not callable(build):
        raise DMFormerError(
            f"keras.applications has no {name!r}; choose one of its functions, such as ResNet50."
        )
    return build(weights=None, input_shape=shape, classes=CLASSES, classifier_activation=None)


def _of_keras_hub(name, shape):
    import keras
    import keras_hub

    if name not in _HUB:
        raise DMFormerError(f"There is no keras-hub/{name} here; choose one of {', '.join(_HUB)}.")
    cls, config = _HUB[name]
    backbone = getattr(keras_hub.models, cls)(image_shape=shape, **config)
    features = backbone.output
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D()(features)
    elif len(features.shape) == 3:
        features = keras.layers.GlobalAveragePooling1D()(features)
    return keras.Model(backbone.input, keras.layers.Dense(CLASSES)(features))


def _count_torch(model, image_size):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 3, *image_size))
    return counter.get_total_flops() // 2


def _import_torchvision():
    """Imports torchvision where its compiled operators do not load, as beside a CPU torch.

    PyPI's torchvision is compiled against CUDA. Its Python part, all that timm needs,
    registers functions for operators that are not there then; empty declarations let it.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        global _declarations  # kept alive, or the declarations are removed
        _declarations = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _declarations.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        import torchvision  # noqa: F401
