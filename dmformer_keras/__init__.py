"""DMFormer vision backbones for Keras 3 on TensorFlow, JAX and PyTorch.

>>> import dmformer_keras
>>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
>>> model.output.shape
(None, 10)

Its parts, `dmformer_keras.training` for instance, are imported when they are first used.
"""

from typing import TYPE_CHECKING

from dmformer_keras import (
    grouped_optimizers,  # noqa: F401, known to Keras from here on
    integrations,
    layers,
)
from dmformer_keras.backbone import DMFormerBackbone
from dmformer_keras.classifier import (
    DMFormerB,
    DMFormerClassifier,
    DMFormerL,
    DMFormerN,
    DMFormerS,
    DMFormerT,
)
from dmformer_keras.errors import DMFormerError
from dmformer_keras.fusing import FusedModel, fuse
from dmformer_keras.lazy import imported_when_used
from dmformer_keras.segmenter import SemanticFPN, UPerNet

if TYPE_CHECKING:
    from dmformer_keras import data, explain, export, hub, inference, presets, training
    from dmformer_keras.inference import classify, segment
    from dmformer_keras.loading import load

__version__ = "0.1.0"

__all__ = [
    "DMFormerB",
    "DMFormerBackbone",
    "DMFormerClassifier",
    "DMFormerError",
    "DMFormerL",
    "DMFormerN",
    "DMFormerS",
    "DMFormerT",
    "FusedModel",
    "SemanticFPN",
    "UPerNet",
    "classify",
    "data",
    "explain",
    "export",
    "fuse",
    "hub",
    "inference",
    "layers",
    "load",
    "presets",
    "segment",
    "training",
]

if not TYPE_CHECKING:  # for type checkers every name would exist
    # All modules and packages of this package, and functions from where they are.
    __getattr__ = imported_when_used(
        __name__,
        {
            "dmformer_keras.inference": ("classify", "segment"),
            "dmformer_keras.loading": ("load",),
        },
    )


def __dir__():
    return sorted([*__all__, "__version__"])


integrations.register()
