"""ONNX files that are written layer by layer hold what Keras computes, channels first."""

import keras
import numpy as np
import pytest
from helpers import images, randomize, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerClassifier, DMFormerError, SemanticFPN, UPerNet, fuse
from dmformer_keras.export import compare_exported, load_exported, to_onnx
from dmformer_keras.export.onnx_graph import UnknownLayerError, model_proto

pytest.importorskip("onnx", reason="writing ONNX files needs onnx")
pytest.importorskip("onnxruntime", reason="running ONNX files needs onnxruntime")

# `test_other_formats.py` has a file from a model of each backend.
pytestmark = pytest.mark.once_under_torch


def _classifier(**arguments):
    return randomize(tiny_classifier(input_shape=(64, 96, 3), **arguments))


def _probabilities():
    backbone = tiny_backbone(input_shape=(64, 96, 3))
    return randomize(DMFormerClassifier(backbone, 5, activation="softmax"))


def _segmenter(cls, **arguments):
    backbone = tiny_backbone(input_shape=(None, None, 3))
    return randomize(cls(backbone, 3, head_channels=8, **arguments))


def _plain():
    """A model of Keras's own layers, with strides, groups and both paddings."""
    inputs = keras.Input((33, 40, 4))
    x = keras.layers.Conv2D(8, 3, 2, "same", activation="silu")(inputs)
    x = keras.layers.Conv2D(8, (3, 2), dilation_rate=2, groups=2, activation="tanh")(x)
    x = keras.layers.DepthwiseConv2D(5, 2, "same", depth_multiplier=2)(x)
    x = keras.layers.BatchNormalization()(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", activation="sigmoid")(x)
    x = keras.layers.Concatenate()([x, keras.layers.Identity()(y), x])
    x = keras.layers.BatchNormalization()(keras.layers.Activation("gelu")(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return randomize(keras.Model(inputs, keras.layers.Dense(5, activation="softmax")(x)))


MODELS = {
    "classifier": (_classifier, (64, 96, 3)),
    "probabilities": (_probabilities, (64, 96, 3)),
    "no gate, no residual": (
        lambda: _classifier(use_gate=False, inner_residual=False),
        (64, 96, 3),
    ),
    "backbone of five channels": (
        lambda: randomize(tiny_backbone(input_shape=(50, 70, 5), output_stride=8)),
        (50, 70, 5),
    ),
    "SemanticFPN": (lambda: _segmenter(SemanticFPN), (50, 71, 3)),
    "UPerNet": (
        lambda: _segmenter(UPerNet, normalization="group", activation="softmax"),
        (50, 71, 3),
    ),
    "plain": (_plain, (33, 40, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_what_keras_gives(tmp_path, name):
    make, shape = MODELS[name]
    model = make()
    x = images(3, *shape)
    for data_format, opset, most in (("channels_last", 18, 2), ("channels_first", 20, 0)):
        path = to_onnx(
            model,
            tmp_path / "model.onnx",
            shape,
            data_format=data_format,
            opset=opset,
            verify=False,
        )
        exported = load_exported(path)
        assert exported.input.shape == (None, *shape)
        assert compare_exported(model, exported, x)["relative_difference"] <= 1e-4
        operators = exported.operators()
        assert operators.get("Transpose", 0) <= most
        assert "MatMul" not in operators or name == "UPerNet"  # its averages over parts
        assert ("Gelu" in operators) == (opset >= 20)


def test_onnx_runtime_fuses_gelu_sums_and_activations(tmp_path):
    import onnx
    import onnxruntime

    path = to_onnx(_classifier(), tmp_path / "model.onnx", verify=False)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    left = {node.op_type for node in graph.node}
    assert "Gelu" in left
    assert not left & {"Erf", "Div"}


def test_a_channels_first_file_says_so_and_takes_such_images(tmp_path, unmeasured):
    import onnxruntime

    model = _segmenter(SemanticFPN)
    path = to_onnx(
        model, tmp_path / "m.onnx", (50, 64, 3), batch_size=2, data_format="channels_first"
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 3, 50, 64]
    assert session.get_outputs()[0].shape == [2, 3, 50, 64]
    x = images(2, 50, 64, 3)
    (found,) = session.run(None, {"images": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    expected = model.predict(x, verbose=0).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    told = load_exported(path).description["input"]
    assert (told["shape"], told["layout"]) == ([3, 50, 64], "channels, height, width")


def test_a_layer_that_is_used_twice_has_its_weights_for_each_use():
    layer = keras.layers.Conv2D(3, 3, strides=2, padding="same", name="shared")
    inputs = keras.Input((9, 8, 3))
    model = keras.Model(inputs, layer(layer(inputs)))
    proto = model_proto(model, (9, 8, 3), 1, 18, "channels_last")
    names = [weight.name for weight in proto.graph.initializer]
    assert names == ["shared/kernel", "shared/bias", "shared/kernel_2", "shared/bias_2"]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Flatten(),
        lambda: keras.layers.ReLU(max_value=6),
        lambda: keras.layers.Conv2D(4, 3, activation="elu"),
        lambda: keras.layers.Concatenate(axis=1),
    ],
)
def test_what_is_not_known_is_not_written(layer):
    inputs = keras.Input((32, 32, 3))
    layer = layer()
    x = layer([inputs, inputs]) if isinstance(layer, keras.layers.Concatenate) else layer(inputs)
    model = fuse(keras.Model(inputs, x))
    with pytest.raises(UnknownLayerError):
        model_proto(model, (32, 32, 3), None, 18, "channels_last")


def test_another_layout_is_refused(tmp_path):
    with pytest.raises(DMFormerError, match="data_format must be 'channels_last' or"):
        to_onnx(tiny_classifier(), tmp_path / "model.onnx", data_format="NCHW")
