"""Runs an .onnx file on image files, with ONNX Runtime, numpy and Pillow: no dmformer_keras.

    pip install onnxruntime numpy pillow
    python run_onnx.py flowers.onnx tulip.jpg
    python run_onnx.py streets.onnx street.jpg --output masks

To use it elsewhere, copy this file and common.py.
"""

import json

import numpy as np
import onnxruntime
from common import main


class OnnxModel:
    """An .onnx file that `dmformer_keras.export.to_onnx` wrote; see `common.main`."""

    def __init__(self, path, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(path, options)
            stored = self.session.get_modelmeta().custom_metadata_map
            self.description = json.loads(stored["model.json"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise SystemExit(f"{path} is not an ONNX file of dmformer_keras: {error}") from error
        (source,) = self.session.get_inputs()
        # A file with a fixed batch size gets this image several times.
        self.name, batch = source.name, source.shape[0]
        self.batch = batch if isinstance(batch, int) else 1

    def run(self, image):
        images = np.repeat(image[None], self.batch, axis=0)
        return self.session.run(None, {self.name: images})[0][0]


if __name__ == "__main__":
    main(OnnxModel, __doc__.splitlines()[0])
