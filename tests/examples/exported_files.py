"""The models that the examples run, and the forms in which they are exported."""

import numpy as np
import pytest
from helpers import TINIEST, images, randomize, tiny_backbone, tiny_classifier

from dmformer_keras import SemanticFPN
from dmformer_keras.data import load_image
from dmformer_keras.export import load_exported, to_onnx, to_tflite

SIZE = (64, 96)
NAMES = ["ash", "birch", "cedar", "daphne", "elm"]
COLORS = [(0, 0, 0), (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]


def classifier(class_names=NAMES, input_shape=(*SIZE, 3)):
    return randomize(tiny_classifier(len(NAMES), class_names, input_shape=input_shape, **TINIEST))


def segmenter():
    model = SemanticFPN(
        tiny_backbone(input_shape=(*SIZE, 3), **TINIEST),
        len(NAMES),
        head_channels=16,
        class_names=NAMES,
        class_colors=COLORS,
    )
    return randomize(model)


def tflite(model, path, **options):
    pytest.importorskip("tensorflow", reason="TFLite conversion needs TensorFlow")
    pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")
    return to_tflite(model, path, verify=False, **options)


def float32(model, folder):
    return tflite(model, folder / "float32.tflite")


def int8(model, folder):
    options = {"representative_data": images(8, *model.input_shape[1:]), "int8_io": True}
    return tflite(model, folder / "int8.tflite", quantization="int8", **options)


def onnx(model, folder):
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"ONNX needs {package}")
    return to_onnx(model, folder / "model.onnx", verify=False)


def outputs_of(path, photograph):
    """What the package itself gets out of a file."""
    pixels = load_image(photograph, SIZE)
    return load_exported(path, threads=1).predict_on_batch(pixels[None])[0]


def in_percent(logits):
    exponentials = np.exp(logits - logits.max())
    return 100 * exponentials / exponentials.sum()
