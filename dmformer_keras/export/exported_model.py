"""Exported files as models: to run, to evaluate, to predict with, without Keras computing."""

import collections
import importlib.util
import json
import os
import zipfile
from pathlib import Path

import keras
import numpy as np

from dmformer_keras.checks import check_positive_int, is_positive_int
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export.quiet import quiet_stderr
from dmformer_keras.presets import is_address

# What an export writes beside or into its file.
DESCRIPTION_FILE = "model.json"
LABELS_FILE = "labels.txt"
OPENVINO_KEY = "description"
# What `to_...` writes, by the end of its name.
SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml", "saved_model": ""}


def side_files(description):
    """Returns the files that travel inside an export which holds files.

    Args:
        description: dict, see `preparation`.

    Returns:
        dict {name: text}: the description, and the class names if there are any, a line each.
    """
    files = {DESCRIPTION_FILE: json.dumps(description, indent=1)}
    if description["class_names"]:
        lines = (" ".join(name.split()) for name in description["class_names"])
        files[LABELS_FILE] = "".join(f"{line}\n" for line in lines)
    return files


def load_exported(path, threads=None):
    """Loads a file that `to_tflite`, `to_onnx`, `to_openvino` or `to_saved_model` wrote.

    Args:
        path: str or path: a `.tflite`, `.onnx` or `.xml` file, or the folder of a SavedModel.
        threads: positive int, or None for the number of processors. Of a SavedModel
            TensorFlow's own setting counts.

    Returns:
        ExportedModel.

    Raises:
        DMFormerError: there is no such file, it is of another kind or damaged, or what runs
            it is not installed.

    Example:

    >>> load_exported("classifier.tflite").class_names  # doctest: +SKIP
    """
    path = Path(path)
    kind = "" if path.is_dir() else path.suffix
    if not path.exists():
        raise DMFormerError(f"There is no file {str(path)!r}; give the path of an exported model.")
    if kind not in _RUNNERS or (kind == "" and not (path / "saved_model.pb").is_file()):
        raise DMFormerError(
            f"{path} is no exported model; give a .tflite, .onnx or .xml file, or the folder of a "
            "SavedModel."
        )
    if threads is not None:
        check_positive_int("threads", threads)
    package, runner, format_name = _RUNNERS[kind]
    try:
        with quiet_stderr():
            return ExportedModel(path, format_name, runner(path, threads or os.cpu_count()))
    except ImportError as error:
        raise DMFormerError(
            f"{path} is run by {package}, which is not installed: pip install {package}."
        ) from error
    except DMFormerError:
        raise
    except Exception as error:  # each runtime has kinds of its own
        raise DMFormerError(
            f"{path} cannot be run as {format_name} ({shortened(error)}); it is damaged, or "
            "made for another runtime."
        ) from error


def check_runner(path):
    """Checks that what runs a kind of exported file is installed.

    Args:
        path: Path of the file, which need not be there yet.

    Raises:
        DMFormerError: it is not.
    """
    package, _, _ = _RUNNERS[path.suffix]
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise DMFormerError(
            f"{path} is run by {package}, which is not installed: pip install {package}; or export "
            "with verify=False."
        )


def is_exported(path):
    """Tells whether a path looks like that of an exported file.

    Args:
        path: str or path.

    Returns:
        bool.

    Example:

    >>> is_exported("streets.onnx"), is_exported("streets.keras")
    (True, False)
    """
    if is_address(str(path)):
        return False
    path = Path(path)
    suffixes = filter(None, SUFFIXES.values())
    return path.suffix in suffixes or (path / "saved_model.pb").is_file()


class ExportedModel:
    """A file that runs, with what an evaluation or a prediction asks of a Keras model.

    `load_exported` makes it.

    Attributes:
        path: Path.
        format: str, "TFLite", "ONNX", "OpenVINO" or "SavedModel".
        description: dict, what `to_tflite` and the others wrote of the model; empty for a
            file of another origin.
        class_names: list of str or None.
        class_colors: list of (r, g, b) or None.
        activation: str, of the output: "linear" for logits.
        num_classes: int, how many values it gives for an image or a pixel.
    """

    def __init__(self, path, format_name, runner):
        self.path = path
        self.name = path.stem
        self.format = format_name
        self.description = runner.description or {}
        self._runner = runner
        self.inputs = [keras.KerasTensor(runner.input_shape, name="images")]
        self.outputs = [keras.KerasTensor(runner.output_shape, name="outputs")]
        self.class_names = self.description.get("class_names")
        colors = self.description.get("class_colors")
        self.class_colors = colors and [tuple(color) for color in colors]
        self.activation = self.description.get("output", {}).get("activation", "linear")

    @property
    def input(self):
        """The input, a `keras.KerasTensor` with `None` for open sides."""
        return self.inputs[0]

    @property
    def output(self):
        """The output, likewise."""
        return self.outputs[0]

    @property
    def num_classes(self):
        """Int: how many values the model gives for an image, or for each of its pixels."""
        return self.output.shape[-1]

    def operators(self):
        """Counts the operators of the file.

        Returns:
            dict {str: int}, the most frequent first; empty for a SavedModel.
        """
        return dict(collections.Counter(self._runner.operators()).most_common())

    def taking_pixels(self):
        """This model for images in 0..255, as a model with rescaling inside takes them.

        Returns:
            ExportedModel: itself, or one that scales the images before it runs the same file.
        """
        values = self.description.get("input", {})
        mean, std = values.get("mean", 0.0), values.get("std", 1.0)
        if (mean, std) == (0.0, 1.0):
            return self
        return ExportedModel(self.path, self.format, _Scaled(self._runner, mean, std))

    def predict_on_batch(self, images):
        """Runs the file on images.

        Args:
            images: array (count, height, width, channels), as the model takes them.

        Returns:
            float32 array (count, ...).

        Raises:
            DMFormerError: the images do not fit the file.
        """
        images = np.asarray(images, np.float32)
        expected = self.input.shape
        fits = images.ndim == 4 and all(
            size in (None, given)
            for size, given in zip(expected[1:], images.shape[1:], strict=True)
        )
        if not fits or not len(images):
            raise DMFormerError(
                f"{self.path} takes one or more images of shape {expected[1:]}, not an array of "
                f"shape {images.shape}; resize them or export with another input_shape."
            )
        batch = expected[0] or len(images)
        outputs = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            # A file of a fixed batch size sees the last images more than once.
            full = np.resize(part, (batch, *part.shape[1:]))
            outputs.append(self._runner.run(full)[: len(part)])
        return np.concatenate(outputs)

    def predict(self, images, batch_size=32, verbose=0):
        """Runs the file on images, `batch_size` at a time, as `keras.Model.predict` does.

        Args:
            images: array (count, height, width, channels).
            batch_size: positive int.
            verbose: ignored.

        Returns:
            float32 array (count, ...).
        """
        if not is_positive_int(batch_size) or not len(images):
            raise DMFormerError(
                f"predict takes one or more images and a positive batch_size, not {len(images)} "
                f"and {batch_size!r}."
            )
        starts = range(0, len(images), batch_size)
        return np.concatenate(
            [self.predict_on_batch(images[start : start + batch_size]) for start in starts]
        )


class _Scaled:
    """A runner whose images are scaled first."""

    def __init__(self, runner, mean, std):
        self.runner, self.mean, self.std = runner, mean, std
        self.input_shape, self.output_shape = runner.input_shape, runner.output_shape
        self.operators = runner.operators
        scaled = {**runner.description["input"], "mean": 0.0, "std": 1.0}
        self.description = {**runner.description, "input": scaled}

    def run(self, images):
        return self.runner.run((images - np.float32(self.mean)) / np.float32(self.std))


class _TFLite:
    """A `.tflite` file in LiteRT's interpreter."""

    def __init__(self, path, threads):
        from ai_edge_litert.interpreter import Interpreter

        self.path = path
        self.interpreter = Interpreter(str(path), num_threads=threads)
        self.source = self.interpreter.get_input_details()[0]
        self.target = self.interpreter.get_output_details()[0]
        self.input_shape = _open_shape(self.source["shape_signature"])
        self.output_shape = _open_shape(self.target["shape_signature"])
        self.current = None
        self.description = _description_in_zip(path)
        if None not in self.input_shape:
            self._resize(self.input_shape)

    def _resize(self, shape):
        if self.current != shape:
            if None in self.input_shape:
                self.interpreter.resize_tensor_input(self.source["index"], shape)
            self.interpreter.allocate_tensors()
            self.current = shape

    def run(self, images):
        self._resize(images.shape)
        self.interpreter.set_tensor(self.source["index"], quantized(images, self.source))
        self.interpreter.invoke()
        return dequantized(self.interpreter.get_tensor(self.target["index"]), self.target)

    def operators(self):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        # Without the delegate, which would hide what it takes over.
        plain = Interpreter(
            str(self.path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        return [operator["op_name"] for operator in plain._get_ops_details()]


def quantized(values, details):
    """Returns float values in the type of a tensor of a TFLite file.

    Args:
        values: float32 array.
        details: dict, what the interpreter says of the tensor.
    """
    if details["dtype"] == np.float32:
        return values
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    rounded = np.round(values / scale) + zero_point
    return np.clip(rounded, limits.min, limits.max).astype(details["dtype"])


def dequantized(values, details):
    """Returns the values of a tensor of a TFLite file as float32.

    Args:
        values: array.
        details: dict, what the interpreter says of the tensor.
    """
    if details["dtype"] == np.float32 or not details["quantization"][0]:
        return values
    scale, zero_point = details["quantization"]
    return ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _description_in_zip(path):
    """Returns the description that `to_tflite` put into a file, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(DESCRIPTION_FILE))
    except (zipfile.BadZipFile, KeyError, ValueError):
        return None


class _Onnx:
    """An `.onnx` file in ONNX Runtime, on the CPU."""

    def __init__(self, path, threads):
        import onnxruntime

        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        source, target = self.session.get_inputs()[0], self.session.get_outputs()[0]
        self.source = source.name
        self.input_shape, self.output_shape = _open_shape(source.shape), _open_shape(target.shape)
        stored = self.session.get_modelmeta().custom_metadata_map
        self.description = json.loads(stored.get(DESCRIPTION_FILE, "null"))

    def run(self, images):
        return self.session.run(None, {self.source: images})[0]

    def operators(self):
        import onnx

        graph = onnx.load(str(self.path), load_external_data=False).graph
        return [node.op_type for node in graph.node]


class _OpenVINO:
    """An `.xml` file with its `.bin` in OpenVINO, on the CPU."""

    def __init__(self, path, threads):
        import openvino

        core = openvino.Core()
        self.model = core.read_model(path)
        self.description = None
        if self.model.has_rt_info(["model_info", OPENVINO_KEY]):
            text = self.model.get_rt_info(["model_info", OPENVINO_KEY])
            self.description = json.loads(text.astype(str))
        precision = (self.description or {}).get("precision", "float32")
        self.compiled = core.compile_model(
            self.model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                # It would choose bfloat16 by itself where the processor has it.
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            },
        )
        self.request = self.compiled.create_infer_request()
        self.input_shape, self.output_shape = (
            _open_shape([None if side.is_dynamic else side.get_length() for side in shape])
            for shape in (self.model.input().partial_shape, self.model.output().partial_shape)
        )

    def run(self, images):
        import openvino

        # Dense: it would read an array's memory whatever its strides.
        self.request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(images)))
        self.request.infer()
        return np.array(self.request.get_output_tensor().data, np.float32)

    def operators(self):
        return [
            operation.get_type_name()
            for operation in self.model.get_ops()
            if operation.get_type_name() not in ("Constant", "Parameter", "Result")
        ]


class _SavedModel:
    """A SavedModel, by its signature that takes arrays of images."""

    def __init__(self, path, threads):
        import tensorflow as tf

        self.tf = tf
        self.model = tf.saved_model.load(str(path))
        self.function = self.model.signatures["images"]
        (self.argument,) = self.function.structured_input_signature[1]
        source = self.function.structured_input_signature[1][self.argument]
        (self.key,) = self.function.structured_outputs
        self.input_shape = tuple(source.shape)
        self.output_shape = tuple(self.function.structured_outputs[self.key].shape)
        stored = path / "assets" / DESCRIPTION_FILE
        self.description = json.loads(stored.read_text("utf-8")) if stored.is_file() else None

    def run(self, images):
        images = self.tf.constant(np.ascontiguousarray(images))
        return self.function(**{self.argument: images})[self.key].numpy()

    def operators(self):
        return []


def _open_shape(shape):
    return tuple(
        int(side) if isinstance(side, (int, np.integer)) and side > 0 else None for side in shape
    )


_RUNNERS = {
    SUFFIXES["tflite"]: ("ai-edge-litert", _TFLite, "TFLite"),
    SUFFIXES["onnx"]: ("onnxruntime", _Onnx, "ONNX"),
    SUFFIXES["openvino"]: ("openvino", _OpenVINO, "OpenVINO"),
    SUFFIXES["saved_model"]: ("tensorflow", _SavedModel, "SavedModel"),
}
