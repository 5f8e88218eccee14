"""TFLite files by LiteRT's converter: outputs, names and operators, in float32 and int8."""

import sys

import keras
import numpy as np
import pytest
from helpers import array, images, randomize, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerError, SemanticFPN
from dmformer_keras.export import compare_exported, load_exported, to_tflite

pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")


@pytest.fixture
def converter():
    pytest.importorskip("litert_torch", reason='needs "dmformer-keras[litert]"')
    if keras.config.backend() != "torch":
        pytest.skip("PyTorch converts, under another backend in a process of its own")


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"converter": "toco"}, "converter must be 'tensorflow' or 'litert', not 'toco'"),
        ({"quantization": "float16"}, 'quantization="float16" is for converter="tensorflow"'),
        ({"resizable": True}, 'resizable=True is for converter="tensorflow"'),
    ],
)
def test_what_it_cannot_is_refused(options, told, tmp_path):
    with pytest.raises(DMFormerError, match=told):
        to_tflite(tiny_classifier(), tmp_path / "m.tflite", **{"converter": "litert", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.backend_independent
def test_a_converter_that_is_absent_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(DMFormerError, match=r'pip install "dmformer-keras\[litert\]"'):
        to_tflite(tiny_classifier(), tmp_path / "model.tflite", converter="litert")


@pytest.mark.usefixtures("converter")
def test_a_classifier(tmp_path):
    model = randomize(tiny_classifier(class_names=list("abcde")))
    path = to_tflite(model, tmp_path / "model.tflite", converter="litert")
    file = load_exported(path)
    assert file.class_names == list("abcde")
    batch = images(1, 64, 64, 3)
    np.testing.assert_allclose(file.predict_on_batch(batch), array(model(batch)), atol=1e-4)
    # No reshape around a 1x1 convolution, and nothing reordered around a dilation.
    assert not {"RESHAPE", "TRANSPOSE", "SPACE_TO_BATCH_ND", "CUSTOM"} & set(file.operators())


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize("int8_io", [False, True])
def test_a_segmenter_in_int8(tmp_path, int8_io):
    model = randomize(SemanticFPN(tiny_backbone(), 3, head_channels=8))
    batch = images(8, 64, 64, 3)
    options = {"representative_data": batch, "int8_io": int8_io, "converter": "litert"}
    path = to_tflite(model, tmp_path / "model.tflite", "int8", **options)
    compared = compare_exported(model, path, batch[:1])
    assert compared["relative_difference"] <= 0.15
    ends = {"QUANTIZE", "DEQUANTIZE"}
    assert bool(ends & set(load_exported(path).operators())) is not int8_io


@pytest.mark.usefixtures("converter")
def test_weights_in_int8(tmp_path):
    model = randomize(tiny_classifier())
    whole = to_tflite(model, tmp_path / "whole.tflite", converter="litert")
    small = to_tflite(model, tmp_path / "small.tflite", "dynamic", converter="litert")
    assert small.stat().st_size < 0.6 * whole.stat().st_size
