"""Names, which models go with which runtimes, and who is left out."""

import pytest

from dmformer_keras.benchmark import contestants as participants
from dmformer_keras.benchmark.contestants import Contestant, contestants_of, limits, parse_name
from dmformer_keras.benchmark.measurement import as_json, from_json
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("dmformer_s", ("dmformer_s", (), None)),
        ("dmformer_s:fused", ("dmformer_s", ("fused",), None)),
        ("dmformer_t:plain:checkpointed@jax", ("dmformer_t", ("plain", "checkpointed"), "jax")),
        ("timm/resnet50@torch-compile", ("timm/resnet50", (), "torch-compile")),
    ],
)
def test_names_are_read(text, parsed):
    assert parse_name(text) == parsed


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("dmformer_x", "dmformer_x"),
        ("dmformer_s:fast", "fast"),
        ("timm/resnet50:fused", "fused"),
        ("dmformer_s@cuda", "cuda"),
    ],
)
def test_unknown_names_are_refused(text, word):
    with pytest.raises(DMFormerError, match=word):
        parse_name(text)


def test_a_name_is_what_is_read():
    contestant = Contestant("dmformer_s", "openvino", ("fused",))
    assert parse_name(contestant.name) == ("dmformer_s", ("fused",), "openvino")
    assert from_json(as_json(contestant)) == contestant


def test_models_meet_only_the_runtimes_that_run_them():
    found = contestants_of(
        ["dmformer_n", "timm/resnet50", "keras/ResNet50V2@jax"], ["tensorflow", "torch", "tflite"]
    )
    assert [contestant.name for contestant in found] == [
        "dmformer_n@tensorflow",
        "dmformer_n@torch",
        "dmformer_n@tflite",
        "timm/resnet50@torch",
        "keras/ResNet50V2@jax",
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"runtime": "openvino", "mode": "training"}, "does not train"),
        ({"forms": ("fused",), "mode": "training"}, "does not train"),
        ({"runtime": "tflite", "batch_size": 2}, "one image"),
        ({"runtime": "onnxruntime", "dtype": "bfloat16"}, "bfloat16"),
        ({"runtime": "openvino", "device": "gpu"}, "CPU"),
        ({"model": "timm/resnet50"}, "does not run models of timm"),
    ],
)
def test_what_cannot_be_measured_is_left_out_with_the_reason(changes, reason, monkeypatch):
    asked = []
    monkeypatch.setattr(
        participants.importlib.util, "find_spec", lambda name: asked.append(name) or 1
    )
    contestant = {"model": "dmformer_n", "runtime": "tensorflow"}
    assert Contestant(**contestant).left_out() is None
    assert "tensorflow" in asked
    assert reason in Contestant(**{**contestant, **changes}).left_out()


def test_missing_packages_are_named(monkeypatch):
    absent = {"timm", "openvino"}
    monkeypatch.setattr(
        participants.importlib.util, "find_spec", lambda name: None if name in absent else object()
    )
    assert "timm" in Contestant("timm/resnet50", "torch").left_out()
    assert "openvino" in Contestant("dmformer_n", "openvino").left_out()
    assert Contestant("dmformer_n", "torch").left_out() is None


def test_the_limit_is_measured_in_the_same_precision():
    assert {contestant.dtype for contestant in limits("float32")} == {"float32"}
    assert {contestant.dtype for contestant in limits("mixed_bfloat16")} == {"bfloat16"}
    assert "numpy" not in {contestant.runtime for contestant in limits("bfloat16")}
