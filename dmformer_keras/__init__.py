"""DMFormer vision backbones for Keras 3 on TensorFlow, JAX and PyTorch.

>>> import dmformer_keras
>>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
>>> model.output.shape
(None, 10)
"""

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
from dmformer_keras.fuse import FusedModel, fuse
from dmformer_keras.segmenter import SemanticFPN, UPerNet

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
    "fuse",
    "layers",
]

integrations.register()
