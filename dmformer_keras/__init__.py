"""DMFormer vision backbones for Keras 3 on TensorFlow, JAX and PyTorch.

>>> import dmformer_keras
>>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
>>> model.output.shape
(None, 10)

Its parts, `dmformer_keras.training` for instance, are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING

from dmformer_keras import integrations, layers
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

# What is imported when it is first used (PEP 562): all modules and packages of this package,
# and functions from where they are.
_FUNCTIONS = {
    "classify": "dmformer_keras.inference",
    "load": "dmformer_keras.loading",
    "segment": "dmformer_keras.inference",
}


def _imported_when_used(name):
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(_FUNCTIONS[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        module = f"{__name__}.{name}"
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if not TYPE_CHECKING:  # for type checkers every name would exist
    __getattr__ = _imported_when_used


def __dir__():
    return sorted([*__all__, "__version__"])


integrations.register()
