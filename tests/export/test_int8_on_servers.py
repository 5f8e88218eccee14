"""Int8 in ONNX and OpenVINO files, quantized by the images that are given."""

import numpy as np
import pytest
from helpers import TINIEST, images, randomize, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerError, SemanticFPN
from dmformer_keras.export import compare_exported, load_exported, to_onnx, to_openvino

pytestmark = pytest.mark.backend_independent


def _segmenter():
    backbone = tiny_backbone(input_shape=(None, None, 3), **TINIEST)
    return randomize(SemanticFPN(backbone, 3, head_channels=8, class_names=["a", "b", "c"]))


@pytest.fixture
def quantizer():
    pytest.importorskip("onnx", reason="ONNX conversion needs onnx")
    pytest.importorskip("onnxruntime", reason="int8 needs ONNX Runtime")


@pytest.mark.parametrize(
    ("batch_size", "data_format"), [(None, "channels_last"), (2, "channels_first")]
)
def test_onnx(tmp_path, quantizer, batch_size, data_format):
    model = _segmenter()
    x = images(5, 64, 96, 3)
    options = {"batch_size": batch_size, "data_format": data_format, "verify": False}
    path = to_onnx(
        model,
        tmp_path / "int8.onnx",
        (64, 96, 3),
        quantization="int8",
        representative_data=x,
        **options,
    )
    exported = load_exported(path)
    assert exported.class_names == ["a", "b", "c"]
    assert exported.operators()["QuantizeLinear"] > 20
    found = compare_exported(model, exported, x)
    assert 1e-4 < found["relative_error"] <= 0.25


def test_openvino(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    pytest.importorskip("nncf", reason="int8 in OpenVINO needs nncf")
    model = randomize(tiny_classifier(**TINIEST))
    x = images(5, 64, 64, 3)
    path = to_openvino(
        model, tmp_path / "m.xml", quantization="int8", representative_data=x, verify=False
    )
    exported = load_exported(path)
    assert exported.operators()["FakeQuantize"] > 20
    assert 1e-4 < compare_exported(model, exported, x)["relative_error"] <= 0.25


@pytest.mark.parametrize("convert", [to_onnx, to_openvino])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "float16"}, "quantization must be None or 'int8'"),
        ({"representative_data": np.zeros((1, 64, 64, 3))}, "representative_data is for"),
        ({"quantization": "int8"}, "needs representative_data|needs nncf|needs onnx"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, convert, options, message):
    path = tmp_path / ("model.onnx" if convert is to_onnx else "model.xml")
    with pytest.raises(DMFormerError, match=message):
        convert(tiny_classifier(**TINIEST), path, **options)
