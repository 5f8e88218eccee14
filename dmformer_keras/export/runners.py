"""What runs an exported file: one class per runtime, each safe to use from many threads.

A runner has `input_shape` and `output_shape` (channels_last, None where a side is open),
`description` (a dict or None), `run(images)` and `operators()`.
"""

import contextlib
import json
import re
import threading
import zipfile
import zlib

import numpy as np

from dmformer_keras.layers.backend_paths import predicting

# The description that an export writes beside or into its file.
DESCRIPTION_FILE = "model.json"
OPENVINO_KEY = "description"
# How the description begins in the zip archive at the end of a `.tflite` file.
_MEMBER = re.compile(rb"PK\x03\x04.{26}" + re.escape(DESCRIPTION_FILE.encode()), re.DOTALL)
# What a description says of a file that takes `(batch, channels, height, width)`.
CHANNELS_FIRST_LAYOUT = "channels, height, width"


class _Pool:
    """Objects that one thread at a time may use, made as more threads come at once."""

    def __init__(self, make):
        self._make = make
        self._idle = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def borrowed(self):
        """Yields an object that no other thread has meanwhile."""
        with self._lock:
            borrowed = self._idle.pop() if self._idle else None
        if borrowed is None:
            borrowed = self._make()
        try:
            yield borrowed
        finally:
            with self._lock:
                self._idle.append(borrowed)


class Scaled:
    """A runner whose images are scaled first."""

    def __init__(self, runner, mean, std):
        self.runner, self.mean, self.std = runner, mean, std
        self.input_shape, self.output_shape = runner.input_shape, runner.output_shape
        self.operators = runner.operators
        scaled = {**runner.description["input"], "mean": 0.0, "std": 1.0}
        self.description = {**runner.description, "input": scaled}

    def run(self, images):
        return self.runner.run((images - np.float32(self.mean)) / np.float32(self.std))


class TFLite:
    """A `.tflite` file in LiteRT's interpreter."""

    def __init__(self, path, threads):
        self.path = path
        self.threads = threads
        self.description = _description_in_zip(path)
        # An interpreter holds one input and its outputs, so only one thread may use it at a time.
        self.pool = _Pool(self._interpreter)
        with self.pool.borrowed() as first:
            self.input_shape = _open_shape(first.source["shape_signature"])
            self.output_shape = _open_shape(first.target["shape_signature"])

    def _interpreter(self):
        return _Interpreter(self.path, self.threads)

    def run(self, images):
        with self.pool.borrowed() as interpreter:
            return interpreter.run(images)

    def operators(self):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        # Without the delegate, which would hide the operators that it runs.
        plain = Interpreter(
            str(self.path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        return [operator["op_name"] for operator in plain._get_ops_details()]


class _Interpreter:
    """One interpreter of a `.tflite` file, allocated for the images that it sees."""

    def __init__(self, path, threads):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(str(path), num_threads=threads)
        self.source = self.interpreter.get_input_details()[0]
        self.target = self.interpreter.get_output_details()[0]
        self.is_open = min(self.source["shape_signature"]) < 0
        self.shape = None
        if not self.is_open:
            self.interpreter.allocate_tensors()

    def run(self, images):
        if self.is_open and self.shape != images.shape:
            self.interpreter.resize_tensor_input(self.source["index"], images.shape)
            self.interpreter.allocate_tensors()
            self.shape = images.shape
        self.interpreter.set_tensor(self.source["index"], quantized(images, self.source))
        self.interpreter.invoke()
        return dequantized(self.interpreter.get_tensor(self.target["index"]), self.target)


def quantized(values, details):
    """Returns float values in the type of a tensor of a TFLite file."""
    if details["dtype"] == np.float32:
        return values
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    rounded = np.round(values / scale) + zero_point
    return np.clip(rounded, limits.min, limits.max).astype(details["dtype"])


def dequantized(values, details):
    """Returns the values of a tensor of a TFLite file as float32."""
    if details["dtype"] == np.float32 or not details["quantization"][0]:
        return values
    scale, zero_point = details["quantization"]
    return ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _description_in_zip(path):
    """Returns the description that `to_tflite` put into a file; None in a file of another origin.

    Without it class names would be numbers, and images be scaled for another model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(DESCRIPTION_FILE))
    except KeyError:
        return None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, ValueError) as error:
        if _MEMBER.search(path.read_bytes()) is None:
            return None
        raise ValueError(f"its {DESCRIPTION_FILE} is damaged or cut off") from error


class Onnx:
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
        stored = self.session.get_modelmeta().custom_metadata_map
        self.description = json.loads(stored.get(DESCRIPTION_FILE, "null"))
        layout = (self.description or {}).get("input", {}).get("layout")
        self.channels_first = layout == CHANNELS_FIRST_LAYOUT
        self.input_shape, self.output_shape = (
            self._channels_last(_open_shape(tensor.shape)) for tensor in (source, target)
        )

    def _channels_last(self, shape):
        if not self.channels_first or len(shape) != 4:
            return shape
        return (shape[0], *shape[2:], shape[1])

    def run(self, images):
        if not self.channels_first:
            return self.session.run(None, {self.source: images})[0]
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        outputs = self.session.run(None, {self.source: images})[0]
        return outputs.transpose(0, 2, 3, 1) if outputs.ndim == 4 else outputs

    def operators(self):
        import onnx

        graph = onnx.load(str(self.path), load_external_data=False).graph
        return [node.op_type for node in graph.node]


class OpenVINO:
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
                # By default it uses bfloat16 if the processor supports it.
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            },
        )
        self.pool = _Pool(self.compiled.create_infer_request)
        self.input_shape, self.output_shape = (
            _open_shape([None if side.is_dynamic else side.get_length() for side in shape])
            for shape in (self.model.input().partial_shape, self.model.output().partial_shape)
        )

    def run(self, images):
        import openvino

        # Dense: it would read an array's memory whatever its strides.
        tensor = openvino.Tensor(np.ascontiguousarray(images))
        with self.pool.borrowed() as request:
            request.set_input_tensor(tensor)
            request.infer()
            return np.array(request.get_output_tensor().data, np.float32)

    def operators(self):
        return [
            operation.get_type_name()
            for operation in self.model.get_ops()
            if operation.get_type_name() not in ("Constant", "Parameter", "Result")
        ]


class SavedModel:
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
        with predicting("tensorflow"):
            return self.function(**{self.argument: images})[self.key].numpy()

    def operators(self):
        return []


def _open_shape(shape):
    return tuple(
        int(side) if isinstance(side, (int, np.integer)) and side > 0 else None for side in shape
    )
