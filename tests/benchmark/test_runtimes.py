"""Every runtime takes turns with the others: real processes, the smallest model."""

import importlib.util

import numpy as np
import pytest

from dmformer_keras.benchmark import contestants_of, exported, measure
from dmformer_keras.benchmark.contestants import RUNTIMES, Contestant
from dmformer_keras.benchmark.measurement import Settings
from dmformer_keras.errors import DMFormerError

pytestmark = [pytest.mark.backend_independent, pytest.mark.slow]

SETTINGS = Settings(threads=1, rounds=1, seconds=0.01, timeout=600)
SMALL = {"image_size": (64, 64)}


def status(records):
    return {record["name"]: record.get("reason", record["status"]) for record in records}


def test_inference_on_every_runtime():
    names = ["dmformer_n:fused", "timm/resnet50"]
    found = [
        contestant
        for contestant in contestants_of(names, list(RUNTIMES), **SMALL)
        if contestant.left_out() is None
    ]
    records = measure(found, SETTINGS, lambda line: None)
    assert set(status(records).values()) == {"measured"}, status(records)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_training_on_every_framework(dtype):
    names = ["dmformer_n:checkpointed", "timm/resnet50"]
    found = contestants_of(
        names, ["tensorflow", "jax", "torch"], mode="training", dtype=dtype, batch_size=2, **SMALL
    )
    found = [contestant for contestant in found if contestant.left_out() is None]
    records = measure(found, SETTINGS, lambda line: None)
    assert set(status(records).values()) == {"measured"}, status(records)


def test_a_file_that_computes_something_else_is_refused(tmp_path):
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    contestant = Contestant("dmformer_n", "openvino", **SMALL)
    facts = exported.convert(contestant, tmp_path)
    exported.prepare(contestant, tmp_path, facts, 1)
    logits = np.load(tmp_path / "logits.npy")
    np.save(tmp_path / "logits.npy", logits[:, ::-1])
    with pytest.raises(DMFormerError, match="differ"):
        exported.prepare(contestant, tmp_path, facts, 1)
