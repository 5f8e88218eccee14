import os

import keras
import numpy as np
import pytest
from helpers import array, images, randomize, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerError, DMFormerN
from dmformer_keras.data import load_image
from dmformer_keras.export import compare_tflite, run_tflite, to_tflite

pytest.importorskip("tensorflow", reason="TFLite conversion needs TensorFlow")
pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")

# On other backends the conversion runs in a TensorFlow process of some 20 s: a few are enough.
tensorflow_only = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="the converter itself is the same"
)
FLOAT_OPERATORS = {
    "ADD",
    "CONCATENATION",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "GELU",
    "LOGISTIC",
    "MEAN",
    "MUL",
    "PAD",
    "SPLIT",
    "STRIDED_SLICE",
}


def operators(path):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    return [operator["op_name"] for operator in interpreter._get_ops_details()]


def test_classifier_agrees_and_has_only_built_in_operators(tmp_path):
    model = randomize(tiny_classifier(input_shape=(64, 96, 3)))
    path = to_tflite(model, tmp_path / "new folder" / "model.tflite")
    report = compare_tflite(model, path, images(8, 64, 96, 3))
    assert report["relative_difference"] <= 1e-4
    assert report["top1_agreement"] == 1.0
    assert set(operators(path)) <= FLOAT_OPERATORS
    # One operator a level and block: nothing was split for its dilation. The kernels that
    # XNNPACK is slow with are sums by rows: 7x7 on 16x24 of three, 5x7 on 8x12 of two.
    assert operators(path).count("DEPTHWISE_CONV_2D") == 3 * 5 + 2 + 1
    assert os.listdir(path.parent) == ["model.tflite"]


@tensorflow_only
def test_nano_on_real_photographs(tmp_path, real_data):
    photographs = sorted((real_data / "demo").glob("*.jpg"))
    batch = np.stack([load_image(path, 96) for path in photographs]).astype("float32")
    model = randomize(DMFormerN(input_shape=(96, 96, 3), num_classes=1000))
    report = compare_tflite(model, to_tflite(model, tmp_path / "n.tflite"), batch)
    assert report["relative_difference"] <= 1e-4
    assert report["top1_agreement"] == 1.0


@tensorflow_only
def test_backbone_of_any_size_dilated_at_a_given_size(tmp_path):
    backbone = randomize(tiny_backbone(input_shape=(None, None, 3), output_stride=8))
    path = to_tflite(backbone, tmp_path / "backbone.tflite", input_shape=(45, 64, 3))
    x = images(2, 45, 64, 3)
    outputs = run_tflite(path, x)
    np.testing.assert_allclose(outputs, array(backbone(x)), atol=1e-4 * np.abs(outputs).max())
    assert set(operators(path)) <= FLOAT_OPERATORS


@tensorflow_only
@pytest.mark.parametrize(
    ("quantization", "most_bytes", "tolerance"),
    [("float16", 0.6, 0.01), ("dynamic", 0.6, 0.1), ("int8", 0.6, 0.15)],
)
def test_quantised_files_are_smaller_and_close(tmp_path, quantization, most_bytes, tolerance):
    model = randomize(tiny_classifier(channels=(16, 32, 64, 96)))
    x = images(16, 64, 64, 3)
    plain = to_tflite(model, tmp_path / "plain.tflite")
    path = to_tflite(model, tmp_path / "small.tflite", quantization, representative_data=x)
    assert path.stat().st_size <= most_bytes * plain.stat().st_size
    assert compare_tflite(model, path, x)["relative_difference"] <= tolerance


@tensorflow_only
def test_a_model_in_16_bits_is_exported_in_float32(tmp_path):
    model = randomize(tiny_classifier(dtype="mixed_bfloat16"))
    path = to_tflite(model, tmp_path / "model.tflite")
    assert set(operators(path)) <= FLOAT_OPERATORS
    # bfloat16 keeps some 3 digits; the file keeps float32's.
    assert compare_tflite(model, path, images(4, 64, 64, 3))["relative_difference"] <= 0.05


@tensorflow_only
def test_a_wrong_file_is_seen_as_wrong(tmp_path):
    model = randomize(tiny_classifier())
    path = to_tflite(model, tmp_path / "model.tflite")
    randomize(model, seed=1)
    report = compare_tflite(model, path, images(8, 64, 64, 3))
    assert report["relative_difference"] > 0.01
    assert report["top1_agreement"] < 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "model.lite"}, "ends in .tflite"),
        ({"quantization": "int4"}, "quantization must be one of"),
        ({"quantization": "int8"}, "needs representative_data"),
        (
            {"quantization": "int8", "representative_data": np.zeros((2, 8, 8, 3))},
            "must hold images of shape",
        ),
        ({"input_shape": (32, 32, 3)}, "does not fit the model"),
        ({"input_shape": (None, 64, 3)}, "pass input_shape with a fixed"),
        ({"input_shape": 64}, "pass input_shape with a fixed"),
        ({"path": "file/model.tflite"}, "cannot be written"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named_and_leave_nothing(tmp_path, arguments, message):
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / arguments.pop("path", "model.tflite")
    with pytest.raises(DMFormerError, match=message):
        to_tflite(tiny_classifier(), path, **arguments)
    assert os.listdir(tmp_path) == ["file"]


def test_channels_first_is_refused(tmp_path):
    model = tiny_backbone(data_format="channels_first", input_shape=(3, 64, 64))
    with pytest.raises(DMFormerError, match="channels_last"):
        to_tflite(model, tmp_path / "model.tflite")


def test_failed_conversion_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    monkeypatch.setattr(keras.Model, "export", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(keras.Model, "save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        to_tflite(tiny_classifier(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_running_what_is_no_tflite_file_is_named(tmp_path):
    with pytest.raises(DMFormerError, match="There is no file"):
        run_tflite(tmp_path / "absent.tflite", images(1, 64, 64, 3))
    (tmp_path / "broken.tflite").write_bytes(b"broken")
    with pytest.raises(DMFormerError, match="cannot be run"):
        run_tflite(tmp_path / "broken.tflite", images(1, 64, 64, 3))
