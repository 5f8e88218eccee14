"""Run as a process with the TensorFlow backend by `to_tflite` under JAX and PyTorch."""

import json
import sys

import keras
import numpy as np

import dmformer_keras  # noqa: F401  registers the classes that the saved model holds
from dmformer_keras.export.tflite import convert


def main(request):
    """Converts what the JSON object `request` names."""
    model = keras.models.load_model(request["model"], compile=False)
    images = request["images"] and np.load(request["images"])
    convert(model, request["path"], tuple(request["shape"]), request["quantization"], images)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
