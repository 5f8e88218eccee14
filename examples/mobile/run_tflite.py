"""Runs a .tflite file on image files, with LiteRT, numpy and Pillow: no dmformer_keras, no Keras.

    pip install ai-edge-litert numpy pillow
    python run_tflite.py flowers.tflite tulip.jpg
    python run_tflite.py streets.tflite street.jpg --output masks

To use it elsewhere, copy this file and common.py.
"""

import json
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from common import main


class TFLiteModel:
    """A .tflite file that `dmformer_keras.export.to_tflite` wrote; see `common.main`."""

    def __init__(self, path, threads):
        try:
            # The file is also a zip archive: `unzip -p flowers.tflite model.json`.
            with zipfile.ZipFile(path) as archive:
                self.description = json.loads(archive.read("model.json"))
            self.interpreter = Interpreter(str(path), num_threads=threads)
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise SystemExit(f"{path} is not a TFLite file of dmformer_keras: {error}") from error
        (self.source,) = self.interpreter.get_input_details()
        (self.target,) = self.interpreter.get_output_details()
        self.shape = None

    def run(self, image):
        # A file with a fixed batch size gets this image several times.
        images = np.broadcast_to(image, (self.source["shape"][0], *image.shape))
        if images.shape != self.shape:
            self.interpreter.resize_tensor_input(self.source["index"], images.shape)
            self.interpreter.allocate_tensors()
            self.shape = images.shape
        self.interpreter.set_tensor(self.source["index"], quantized(images, self.source))
        self.interpreter.invoke()
        return dequantized(self.interpreter.get_tensor(self.target["index"])[0], self.target)


def quantized(values, tensor):
    """The values as a tensor stores them; in int8, value = (number - zero point) * scale."""
    if tensor["dtype"] == np.float32:
        return values
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    numbers = np.round(values / scale) + zero_point
    return np.clip(numbers, limits.min, limits.max).astype(tensor["dtype"])


def dequantized(numbers, tensor):
    if tensor["dtype"] == np.float32:
        return numbers
    scale, zero_point = tensor["quantization"]
    return (numbers.astype(np.float32) - zero_point) * np.float32(scale)


if __name__ == "__main__":
    main(TFLiteModel, __doc__.splitlines()[0])
