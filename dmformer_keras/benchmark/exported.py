"""Models as files, run by LiteRT, ONNX Runtime and OpenVINO.

Run as a process it writes the file, so that the process that is measured holds the
runtime and the file alone, as where such files are used.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from dmformer_keras.benchmark import models
from dmformer_keras.benchmark.contestants import RUNTIMES, Contestant
from dmformer_keras.benchmark.runtimes import Prepared
from dmformer_keras.errors import DMFormerError

_SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml", "tflite": ".tflite"}
# Relative to the largest logit: float32 in another order and bfloat16 stay below it, a wrong
# graph does not.
_LARGEST_DIFFERENCE = {"float32": 1e-2, "bfloat16": 0.2}


def convert(contestant, folder):
    """Converts a contestant's model to a folder, with its logits, in a separate process.

    Returns a dict of `parameters` and `multiply_accumulates`.
    """
    from dmformer_keras.benchmark.measurement import as_json

    backend = "torch" if contestant.library == "timm" else RUNTIMES[contestant.runtime].backend
    finished = subprocess.run(
        [sys.executable, "-m", __name__, as_json(contestant), str(folder)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    facts = Path(folder) / "facts.json"
    if finished.returncode or not facts.is_file():
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise DMFormerError(f"The conversion failed ({last[:300]}); choose another runtime.")
    return json.loads(facts.read_text())


def prepare(contestant, folder, facts, threads):
    """Loads what `convert` wrote, and compares its logits with the model's."""
    load = {"onnxruntime": _onnxruntime, "openvino": _openvino, "tflite": _tflite}
    path = _path(contestant, folder)
    step = load[contestant.runtime](contestant, path, models.random_images(contestant), threads)
    expected = np.load(Path(folder) / "logits.npy")
    difference = np.abs(step() - expected).max() / np.abs(expected).max()
    if not difference <= _LARGEST_DIFFERENCE[contestant.dtype]:
        raise DMFormerError(
            f"The file's logits differ from the model's by {difference:.2g}; please report this."
        )
    return Prepared(step, facts["parameters"], facts["multiply_accumulates"])


def write(contestant, folder):
    """Writes the model's file, its logits and its counts to a folder."""
    images = models.random_images(contestant)
    path = _path(contestant, folder)
    if contestant.library == "timm":
        model, *counts = models.build_timm_model(contestant)
        logits = _write_timm(contestant, model, images, path)
    else:
        model = models.build_keras_model(_in_float32(contestant))
        counts = models.count_keras_model(contestant, model)
        logits = model.predict_on_batch(images)
        _write_keras(contestant, model, path)
    np.save(Path(folder) / "logits.npy", logits)
    facts = dict(zip(("parameters", "multiply_accumulates"), counts, strict=True))
    (Path(folder) / "facts.json").write_text(json.dumps(facts))


def _write_keras(contestant, model, path):
    import keras

    from dmformer_keras.fusing import FusedModel

    shape = (contestant.batch_size, *contestant.image_size, 3)
    if contestant.runtime == "tflite":
        from dmformer_keras.export import to_tflite

        to_tflite(model, path, input_shape=shape[1:], fuse=False, verify=False)
        return
    if contestant.runtime == "onnxruntime" and isinstance(model, FusedModel):
        from dmformer_keras.export import to_onnx

        to_onnx(model, path, shape[1:], batch_size=shape[0], verify=False)
        return
    model.export(
        str(path),
        format="onnx" if contestant.runtime == "onnxruntime" else "openvino",
        input_signature=[keras.InputSpec(shape=shape, dtype="float32", name="images")],
        verbose=False,
    )


def _write_timm(contestant, model, images, path):
    import torch

    images = torch.from_numpy(images)
    with torch.inference_mode():
        logits = model(images).numpy()
    if contestant.runtime == "onnxruntime":
        torch.onnx.export(model, (images,), str(path), dynamo=True, external_data=False)
    else:
        import openvino

        converted = openvino.convert_model(model, example_input=images, input=list(images.shape))
        openvino.save_model(converted, path, compress_to_fp16=False)
    return logits


def _onnxruntime(contestant, path, images, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Otherwise its threads spin between runs and slow the other processes down.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)[0]


def _openvino(contestant, path, images, threads):
    import openvino

    core = openvino.Core()
    precision = {"float32": "f32", "bfloat16": "bf16"}[contestant.dtype]
    compiled = core.compile_model(
        core.read_model(path),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, like the other runtimes
            "INFERENCE_PRECISION_HINT": precision,  # by default bfloat16 if the processor has it
        },
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(images))

    def step():
        request.infer()
        return request.get_output_tensor().data

    return step


def _tflite(contestant, path, images, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def step():
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return step


def _path(contestant, folder):
    return Path(folder) / f"model{_SUFFIXES[contestant.runtime]}"


def _in_float32(contestant):
    """Files are in float32; OpenVINO computes them in bfloat16 if asked to."""
    return Contestant(**{**vars(contestant), "dtype": "float32"})


if __name__ == "__main__":
    from dmformer_keras.benchmark.measurement import from_json

    write(from_json(sys.argv[1]), sys.argv[2])
