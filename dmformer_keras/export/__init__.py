"""Export of models to other runtimes, and the check of what was exported."""

from dmformer_keras.export.tflite import compare_tflite, run_tflite, to_tflite

__all__ = ["compare_tflite", "run_tflite", "to_tflite"]
