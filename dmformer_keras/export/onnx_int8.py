"""Int8 in ONNX files, by ONNX Runtime's static quantizer."""

import logging

import numpy as np

from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export.calibration import batches
from dmformer_keras.export.quiet import LOG

# The batch size for a file of any batch size.
_BATCH_SIZE = 4


def check_quantizer():
    """Checks that the quantizer is installed."""
    _imported_quantizer()


def quantize(path, images, batch_size, data_format):
    """Quantizes an ONNX file in its place."""
    quantization = _imported_quantizer()
    LOG.info("Measuring ranges on %d images", len(images))
    level, root = logging.root.level, logging.getLogger()
    root.setLevel(logging.ERROR)  # its advice is about files that were not prepared for it
    try:
        quantization.quantize_static(
            str(path),
            str(path),
            _reader(quantization, images, batch_size or _BATCH_SIZE, data_format),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Without VNNI the sum of two products of full range overflows 16 bits.
            reduce_range=True,
        )
    except Exception as error:  # of many kinds
        raise DMFormerError(
            f"ONNX Runtime cannot quantize the model ({shortened(error)}); leave out quantization."
        ) from error
    finally:
        root.setLevel(level)


def _reader(quantization, images, batch_size, data_format):
    class Reader(quantization.CalibrationDataReader):
        """The images, in the batches and the order of axes that the file takes."""

        def __init__(self):
            self.batches = batches(images, batch_size)

        def get_next(self):
            batch = next(self.batches, None)
            if batch is None:
                return None
            order = (0, 3, 1, 2) if data_format == "channels_first" else (0, 1, 2, 3)
            return {"images": np.ascontiguousarray(batch.transpose(order))}

    return Reader()


def _imported_quantizer():
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise DMFormerError(
            'quantization="int8" needs onnx and onnxruntime: pip install onnx onnxruntime.'
        ) from error
    return quantization
