import io
import json
import os

import keras
import numpy as np
import pytest
from helpers import TINIEST, images, randomize, tiny_backbone, tiny_classifier
from PIL import Image

from dmformer_keras import DMFormerError, SemanticFPN
from dmformer_keras.data import load_image, resize_image
from dmformer_keras.export import (
    compare_exported,
    load_exported,
    report_path,
    to_onnx,
    to_openvino,
    to_saved_model,
)

BACKEND = keras.config.backend()
# Each converter runs under one backend, here or in a process of its own, which takes long.
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow converts")
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="PyTorch converts")


def classifier():
    return randomize(tiny_classifier(input_shape=(64, 96, 3), class_names=list("abcde"), **TINIEST))


def segmenter():
    backbone = tiny_backbone(input_shape=(None, None, 3), **TINIEST)
    return randomize(SemanticFPN(backbone, 3, head_channels=8, class_names=["a", "b", "c"]))


@pytest.fixture
def onnx():
    pytest.importorskip("onnx", reason="ONNX conversion needs onnx")
    pytest.importorskip("onnxruntime", reason="running ONNX files needs onnxruntime")


def test_onnx(tmp_path, onnx, measured_here):
    model = classifier()
    path = to_onnx(model, tmp_path / "model.onnx")
    exported = load_exported(path)
    assert exported.input.shape == (None, 64, 96, 3)
    for count in (1, 3):  # as many as one likes at once
        x = images(count, 64, 96, 3)
        assert exported.predict_on_batch(x).shape == (count, 5)
        assert compare_exported(model, exported, x)["relative_difference"] <= 1e-4
    assert exported.class_names == list("abcde")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "model.onnx.report.json"]
    report = json.loads(report_path(path).read_text())
    assert report["format"] == "ONNX"
    assert report["operators"]["Conv"] >= 16


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@torch_only
def test_pytorch_converts_what_is_not_fused(tmp_path, onnx, data_format, unmeasured):
    pytest.importorskip("onnxscript", reason="PyTorch's conversion needs onnxscript")
    model = randomize(tiny_classifier(input_shape=(64, 96, 3), **TINIEST))
    path = to_onnx(model, tmp_path / "m.onnx", fuse=False, data_format=data_format)
    found = compare_exported(model, path, images(3, 64, 96, 3))
    assert found["relative_difference"] <= 1e-4


@pytest.mark.backend_independent
def test_onnx_is_what_it_says(tmp_path, onnx, unmeasured):
    import onnx as library

    path = to_onnx(segmenter(), tmp_path / "m.onnx", (50, 64, 3), batch_size=2, opset=19)
    file = library.load(path)
    library.checker.check_model(file, full_check=True)
    assert next(iter(file.opset_import)).version == 19
    assert [node.name for node in file.graph.input] == ["images"]
    assert [node.name for node in file.graph.output] == ["outputs"]
    assert load_exported(path).input.shape == (2, 50, 64, 3)


@pytest.mark.slow(on=["jax", "torch"])
def test_openvino(tmp_path, measured_here):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    pytest.importorskip("tensorflow", reason="the conversion needs TensorFlow")
    model = segmenter()
    path = to_openvino(model, tmp_path / "model.xml", (50, 64, 3))
    exported = load_exported(path)
    x = images(3, 50, 64, 3)
    assert compare_exported(model, exported, x)["relative_difference"] <= 1e-4
    assert exported.class_names == ["a", "b", "c"]
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml", "model.xml.report.json"]


@tensorflow_only
def test_openvino_files_have_the_model_s_output_alone(tmp_path):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    inputs = keras.Input((32, 32, 3))
    # SiLU leaves its input behind, for a gradient that is not in the file.
    hidden = keras.layers.Conv2D(4, 3, activation="silu")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(hidden))
    path = to_openvino(randomize(model), tmp_path / "model.xml", fuse=False)
    assert len(openvino.Core().read_model(path).outputs) == 1
    assert load_exported(path).predict_on_batch(images(1, 32, 32, 3)).shape == (1, 4)


@pytest.mark.slow
@tensorflow_only
def test_openvino_in_bfloat16(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    path = to_openvino(classifier(), tmp_path / "model.xml", precision="bfloat16")
    assert load_exported(path).description["precision"] == "bfloat16"
    report = json.loads(report_path(path).read_text())
    assert report["precision"] == "bfloat16"
    assert report["compared"]["relative_error"] <= 0.1


@pytest.mark.slow(on=["jax", "torch"])
def test_saved_model_takes_encoded_photographs(tmp_path, measured_here):
    tf = pytest.importorskip("tensorflow", reason="a SavedModel needs TensorFlow")
    from PIL import Image

    model = classifier()
    path = to_saved_model(model, tmp_path / "served")
    exported = load_exported(path)
    x = images(3, 64, 96, 3)
    assert compare_exported(model, exported, x)["relative_difference"] <= 1e-4
    assert (path / "assets" / "labels.txt").read_text().split() == list("abcde")
    # The same photograph through the file's own decoder and through ours.
    smooth = resize_image(np.uint8(images(1, 8, 8, 3)[0]), (150, 140), "squash")
    Image.fromarray(smooth).save(tmp_path / "photo.png")
    Image.fromarray(smooth[:, :, ::-1]).save(tmp_path / "photo.jpg", quality=95)
    files = [tmp_path / "photo.png", tmp_path / "photo.jpg"]
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    found = served(encoded=tf.constant([file.read_bytes() for file in files]))
    ours = np.stack([load_image(file, (64, 96)) for file in files]).astype("float32")
    expected = model.predict(ours, verbose=0)
    probabilities = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=0.01)
    assert found["class"].numpy().tolist() == expected.argmax(axis=1).tolist()
    names = [name.decode() for name in found["name"].numpy()]
    assert names == ["abcde"[index] for index in expected.argmax(axis=1)]


@tensorflow_only
def test_a_served_segmenter_gives_classes_of_pixels(tmp_path):
    import tensorflow as tf

    model = segmenter()
    path = to_saved_model(model, tmp_path / "served", (50, 64, 3), verify=False)
    x = np.uint8(images(1, 50, 64, 3)[0])
    png = tf.io.encode_png(x)
    found = tf.saved_model.load(str(path)).signatures["serving_default"](encoded=png[None])
    expected = model.predict(x[None].astype("float32"), verbose=0).argmax(axis=-1)
    assert (found["classes"].numpy() == expected).mean() >= 0.999


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("convert", "path", "arguments", "message"),
    [
        (to_onnx, "model.tflite", {}, "ends in .onnx"),
        (to_onnx, "model.onnx", {"opset": 11}, "opset must be"),
        (to_onnx, "model.onnx", {"batch_size": 0}, "batch_size must be"),
        (to_onnx, "file/model.onnx", {}, "cannot be written"),
        (to_openvino, "model.bin", {}, "ends in .xml"),
        (to_openvino, "model.xml", {"precision": "int4"}, "precision must be"),
        (to_openvino, "model.xml", {"input_shape": (32, 32, 3)}, "does not fit the model"),
        (to_saved_model, "model.pb", {}, "has no suffix"),
        (to_saved_model, "occupied", {}, "something else than a SavedModel"),
        (to_saved_model, "model", {"fuse": 1}, "fuse must be"),
    ],
)
def test_wrong_arguments_are_named_and_leave_nothing(tmp_path, convert, path, arguments, message):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.txt").write_text("mine")
    with pytest.raises(DMFormerError, match=message):
        convert(tiny_classifier(**TINIEST), tmp_path / path, **arguments)
    assert sorted(os.listdir(tmp_path)) == ["file", "occupied"]
    assert os.listdir(tmp_path / "occupied") == ["thesis.txt"]


@pytest.mark.backend_independent
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "few colors", "RGB", "L", "1", "1 clear"])
def test_saved_models_lay_transparent_parts_on_white_as_predict_does(mode, channels):
    tf = pytest.importorskip("tensorflow", reason="a SavedModel needs TensorFlow")
    from dmformer_keras.data import decode_image
    from dmformer_keras.export.saved_model import _decoded

    samples = np.random.default_rng(0).integers(0, 256, (20, 30, 4), "uint8")
    image = Image.fromarray(samples, "RGBA")
    options = {}
    if mode in ("P", "few colors"):
        image = image.convert("RGB").quantize(16)
        options = {"transparency": bytes(range(0, 256, 17))} if mode == "P" else {}
    elif mode.startswith("1"):
        image = image.convert("1")
        options = {"transparency": 0} if mode == "1 clear" else {}
    else:
        image = image.convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, "PNG", **options)
    expected = decode_image(encoded.getvalue(), channels, "the image")
    found = tf.function(_decoded)(tf.constant(encoded.getvalue()), (20, 30, channels)).numpy()
    # Pillow rounds twice.
    np.testing.assert_allclose(found, expected, atol=1 if channels == 1 and mode != "L" else 0)


@pytest.mark.backend_independent
def test_saved_models_refuse_transparent_gifs_and_read_others():
    tf = pytest.importorskip("tensorflow", reason="a SavedModel needs TensorFlow")
    from dmformer_keras.data import decode_image
    from dmformer_keras.export.saved_model import _decoded

    image = Image.fromarray(np.uint8(images(1, 20, 30, 3)[0])).quantize(16)
    decode = tf.function(_decoded)
    for options in ({}, {"comment": b"an extension"}, {"transparency": 3}):
        encoded = io.BytesIO()
        image.save(encoded, "GIF", **options)
        encoded = encoded.getvalue()
        if "transparency" in options:
            with pytest.raises(tf.errors.InvalidArgumentError, match="send it as PNG"):
                decode(tf.constant(encoded), (20, 30, 3))
        else:
            found = decode(tf.constant(encoded), (20, 30, 3)).numpy()
            np.testing.assert_array_equal(found, decode_image(encoded, 3, "the image"))
