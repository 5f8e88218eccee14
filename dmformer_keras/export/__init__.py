"""Models as files for other runtimes: TFLite, ONNX, OpenVINO and SavedModel, each verified."""

from dmformer_keras.export.comparison import compare_exported
from dmformer_keras.export.exported_model import ExportedModel, load_exported
from dmformer_keras.export.onnx import to_onnx
from dmformer_keras.export.openvino import to_openvino
from dmformer_keras.export.saved_model import to_saved_model
from dmformer_keras.export.tensor_errors import LayerError, layer_errors
from dmformer_keras.export.tflite import to_tflite
from dmformer_keras.export.verification import report_path
from dmformer_keras.exported_files import is_exported

__all__ = [
    "ExportedModel",
    "LayerError",
    "compare_exported",
    "is_exported",
    "layer_errors",
    "load_exported",
    "report_path",
    "to_onnx",
    "to_openvino",
    "to_saved_model",
    "to_tflite",
]


def __dir__():
    return __all__
