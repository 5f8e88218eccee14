"""One loaded file predicts from many threads at once, in every runtime."""

import concurrent.futures

import numpy as np
import pytest
from helpers import TINIEST, images, randomize, tiny_classifier

from dmformer_keras import export

THREADS, ROUNDS = 8, 12
RUNTIMES = {
    "model.tflite": (export.to_tflite, {}, "ai_edge_litert"),
    "any_size.tflite": (export.to_tflite, {"resizable": True}, "ai_edge_litert"),
    "model.onnx": (export.to_onnx, {}, "onnxruntime"),
    "model.xml": (export.to_openvino, {}, "openvino"),
    "served": (export.to_saved_model, {}, "tensorflow"),
}


@pytest.mark.backend_independent
@pytest.mark.parametrize("name", RUNTIMES)
def test_eight_threads_get_their_own_answers(tmp_path, name):
    convert, options, runtime = RUNTIMES[name]
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    sides = (None, None) if options else (64, 64)
    model = randomize(tiny_classifier(input_shape=(*sides, 3), **TINIEST))
    exported = export.load_exported(convert(model, tmp_path / name, verify=False, **options))
    inputs = [
        images(1, 64, 64 + 32 * (seed % 2 * bool(options)), 3, seed=seed) for seed in range(THREADS)
    ]
    expected = [exported.predict_on_batch(x) for x in inputs]
    assert not np.allclose(expected[0], expected[2])  # else a mixture would not show

    def work(index):
        return [exported.predict_on_batch(inputs[index]) for _ in range(ROUNDS)]

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(work, range(THREADS)))
    for answers, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(answers, [right] * ROUNDS, rtol=1e-5, atol=1e-5)
