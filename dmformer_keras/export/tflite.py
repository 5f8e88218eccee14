"""TFLite (LiteRT) files from Keras models, and their comparison with Keras."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from dmformer_keras.backbone import MINIMUM_SIZE, DMFormerBackbone
from dmformer_keras.classifier import DMFormerClassifier
from dmformer_keras.errors import DMFormerError
from dmformer_keras.layers.backend_paths import for_tflite
from dmformer_keras.layers.common import is_positive_int
from dmformer_keras.segmenter import SemanticFPN, UPerNet

_TASKS = (DMFormerClassifier, SemanticFPN, UPerNet)
QUANTIZATIONS = (None, "float16", "dynamic", "int8")


def to_tflite(model, path, quantization=None, representative_data=None, input_shape=None):
    """Converts a model to a TFLite file with a fixed input of one image.

    The fixed shape keeps every dilated depthwise convolution one operator that the
    CPU delegate runs whole; only built-in operators are used. TensorFlow does the
    conversion. Under JAX and PyTorch the model is handed to a TensorFlow process of
    its own, so TensorFlow must be installed but need not be the backend.

    Args:
        model: a `keras.Model` with one image input, channels_last: a classifier, a
            segmenter, a backbone, or a task model that holds one.
        path: str or path ending in `.tflite`. Replaced if present; its folder is made.
        quantization: `None` (float32), `"float16"` (weights stored in half precision),
            `"dynamic"` (weights in int8, activations quantised as they come) or
            `"int8"` (weights and activations in int8, input and output in float32).
        representative_data: for `"int8"`: array `(count, height, width, channels)` or
            iterable of such images `(height, width, channels)`, as the model takes
            them. 100 or more images of the kind to be met are advisable.
        input_shape: `(height, width, channels)`, for a model that takes any size.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        DMFormerError: if an argument is invalid, TensorFlow is absent, the path cannot
            be written, or the conversion fails. No file is left behind then.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=10)
    >>> path = to_tflite(model, "classifier.tflite")  # doctest: +SKIP
    """
    path = Path(path)
    shape = _fixed_input_shape(model, input_shape)
    if path.suffix != ".tflite":
        raise DMFormerError(f"The path of a TFLite file ends in .tflite, which {path} does not.")
    if quantization not in QUANTIZATIONS:
        names = ", ".join(repr(name) for name in QUANTIZATIONS)
        raise DMFormerError(f"quantization must be one of {names}, not {quantization!r}.")
    if quantization == "int8" and representative_data is None:
        raise DMFormerError(
            'quantization="int8" needs representative_data: pass some 100 images of the kind '
            "the model will meet, from which the ranges of the activations are measured."
        )
    images = None
    if quantization == "int8":
        images = _representative_images(representative_data, shape)
    if importlib.util.find_spec("tensorflow") is None:
        raise DMFormerError(
            "TFLite conversion needs TensorFlow, which is not installed: "
            'pip install "dmformer-keras[tensorflow]".'
        )
    model = _in_float32(model)
    with _written_beside(path) as beside:
        if keras.config.backend() == "tensorflow":
            convert(model, beside, shape, quantization, images)
        else:
            _convert_in_tensorflow_process(model, beside, shape, quantization, images)
    return path


def run_tflite(path, images, threads=None):
    """Runs a TFLite file on images, one at a time.

    Args:
        path: str or path of a `.tflite` file with one input of one image.
        images: array `(count, height, width, channels)` of the file's input size.
        threads: positive int, or `None` for the number of processors.

    Returns:
        Array `(count, ...)` of the outputs, in the file's output type.

    Raises:
        DMFormerError: if the file is absent or is no TFLite file, or the images do not
            fit its input.

    Example:

    >>> run_tflite("classifier.tflite", np.zeros((2, 64, 64, 3)))  # doctest: +SKIP
    """
    from ai_edge_litert.interpreter import Interpreter

    if not Path(path).is_file():
        raise DMFormerError(f"There is no file {str(path)!r}; give the path of a .tflite file.")
    try:
        with _quiet_stderr():
            interpreter = Interpreter(str(path), num_threads=threads or os.cpu_count())
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise DMFormerError(f"{path} cannot be run as a TFLite file: {error}.") from error
    source = interpreter.get_input_details()[0]
    target = interpreter.get_output_details()[0]
    images = np.asarray(images)
    expected = tuple(int(size) for size in source["shape"][1:])
    if images.shape[1:] != expected or not len(images):
        raise DMFormerError(
            f"{path} takes one or more images of shape {expected}, not an array of shape "
            f"{images.shape}; resize them or export with another input_shape."
        )
    outputs = []
    for image in images:
        interpreter.set_tensor(source["index"], np.asarray(image, source["dtype"])[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"])[0])
    return np.stack(outputs)


def compare_tflite(model, path, images, batch_size=32):
    """Compares a TFLite file with the Keras model that it was made from.

    Args:
        model: the `keras.Model`.
        path: str or path of the `.tflite` file.
        images: array `(count, height, width, channels)`, as the model takes them. Real
            images say more than random ones.
        batch_size: positive int, of the Keras model's predictions.

    Returns:
        dict of floats: `max_difference`; `output_range` (largest minus smallest Keras
        output); `relative_difference`, the first over the second; `top1_agreement`, the
        part of all positions (images, or pixels of a map) whose largest channel is the
        same in both.

    Raises:
        DMFormerError: as `run_tflite`.

    Example:

    >>> compare_tflite(model, "classifier.tflite", images)  # doctest: +SKIP
    """
    actual = run_tflite(path, images)
    expected = model.predict(np.asarray(images), batch_size=batch_size, verbose=0)
    if expected.shape != actual.shape:
        raise DMFormerError(
            f"{path} gives outputs of shape {actual.shape[1:]}, but {model.name!r} gives "
            f"{expected.shape[1:]}: it was made from another model."
        )
    difference = float(np.abs(expected - actual).max())
    output_range = float(expected.max() - expected.min())
    return {
        "max_difference": difference,
        "output_range": output_range,
        "relative_difference": difference / max(output_range, np.finfo("float32").tiny),
        "top1_agreement": float((expected.argmax(-1) == actual.argmax(-1)).mean()),
    }


def convert(model, path, shape, quantization, images):
    """Converts under the TensorFlow backend; `to_tflite` is the checked way in."""
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    options = {}
    if quantization is not None:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        options["target_spec"] = {"supported_types": [tf.float16]}
    if quantization == "int8":
        options["representative_dataset"] = lambda: ([image[None]] for image in images)
    signature = keras.InputSpec(shape=(1, *shape), dtype="float32", name="images")
    try:
        # Its additional sums cost an int8 file accuracy, a float one nothing.
        in_rows = for_tflite() if quantization in (None, "float16") else contextlib.nullcontext()
        with _quiet_stderr(), in_rows:
            model.export(
                str(path), format="litert", input_signature=[signature], verbose=False, **options
            )
    except (tf.errors.OpError, RuntimeError, ValueError, TypeError, ConverterError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DMFormerError(
            f"TensorFlow cannot convert {model.name!r} to TFLite: {reason}"
        ) from error


def _convert_in_tensorflow_process(model, path, shape, quantization, images):
    """Saves the model, and has a process with the TensorFlow backend convert it."""
    with tempfile.TemporaryDirectory() as folder:
        model_path = Path(folder) / "model.keras"
        model.save(model_path)
        images_path = None
        if images is not None:
            images_path = Path(folder) / "images.npy"
            np.save(images_path, images)
        request = {
            "model": str(model_path),
            "path": str(path),
            "shape": shape,
            "quantization": quantization,
            "images": images_path and str(images_path),
        }
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
        finished = subprocess.run(
            [sys.executable, "-m", "dmformer_keras.export.tflite_process", json.dumps(request)],
            env=environment,
            capture_output=True,
            text=True,
        )
    if finished.returncode != 0:
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise DMFormerError(f"The TensorFlow process could not convert the model: {last}")


def _fixed_input_shape(model, input_shape):
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.inputs[0].shape) != 4:
        raise DMFormerError("A TFLite export takes a model with one image input and one output.")
    if getattr(model, "data_format", "channels_last") == "channels_first" or (
        getattr(getattr(model, "backbone", None), "data_format", None) == "channels_first"
    ):
        raise DMFormerError(
            "TFLite convolutions are channels_last; build the model with "
            'data_format="channels_last" (its weights are the same) and export that.'
        )
    own = tuple(model.inputs[0].shape[1:])
    shape = own if input_shape is None else input_shape
    shape = tuple(shape) if isinstance(shape, (list, tuple)) else (shape,)
    if len(shape) != 3 or not all(is_positive_int(size) for size in shape):
        raise DMFormerError(
            f"The model takes images of shape {own}; pass input_shape with a fixed height, "
            "width and number of channels, such as (224, 224, 3)."
        )
    if any(size not in (None, given) for size, given in zip(own, shape, strict=True)):
        raise DMFormerError(
            f"input_shape {shape} does not fit the model, which takes images of shape {own}; "
            "build the model with input_shape (None, None, channels) to export another size."
        )
    if min(shape[:2]) < MINIMUM_SIZE:
        raise DMFormerError(
            f"input_shape {shape} has a side under {MINIMUM_SIZE} pixels, the least that a "
            "DMFormer takes."
        )
    return tuple(int(size) for size in shape)


def _in_float32(model):
    """Returns the model, or a float32 copy of one in 16 bits, which TFLite cannot compute in."""
    sixteen_bits = {"float16", "bfloat16"}
    if not any(layer.compute_dtype in sixteen_bits for layer in model._flatten_layers()):
        return model
    if isinstance(model, _TASKS) and isinstance(model.backbone, DMFormerBackbone):
        backbone = _backbone_in_float32(model.backbone)
        copy = type(model).from_config({**model.get_config(), "backbone": backbone})
    elif isinstance(model, DMFormerBackbone):
        copy = _backbone_in_float32(model)
    else:
        raise DMFormerError(
            f"{model.name!r} computes in 16 bits, which TFLite does not; build it again on a "
            "float32 backbone with the same weights and export that."
        )
    copy.set_weights([np.asarray(weight, "float32") for weight in model.get_weights()])
    return copy


def _backbone_in_float32(backbone):
    return type(backbone).from_config({**backbone.get_config(), "dtype": "float32"})


def _representative_images(data, shape):
    images = [np.asarray(image, "float32") for image in data]
    if not images or any(image.shape != shape for image in images):
        found = sorted({image.shape for image in images})
        raise DMFormerError(
            f"representative_data must hold images of shape {shape}, not {found or 'none at all'}."
        )
    return np.stack(images)


@contextlib.contextmanager
def _written_beside(path):
    """Yields a path in the same folder; moves it to `path` if all went well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".exporting-", dir=path.parent)
    except OSError as error:
        raise DMFormerError(
            f"{path} cannot be written ({error.strerror}); choose a folder that can be written."
        ) from error
    with folder as name:
        beside = Path(name) / path.name
        yield beside
        try:
            os.replace(beside, path)
        except OSError as error:
            raise DMFormerError(
                f"{path} cannot be written ({error.strerror}); choose another path."
            ) from error


@contextlib.contextmanager
def _quiet_stderr():
    """Keeps the C++ log of TensorFlow and LiteRT out of the terminal; exceptions come through."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
