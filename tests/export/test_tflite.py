import json
import os
import zipfile

import keras
import numpy as np
import pytest
from helpers import TINIEST, TINY, array, images, randomize, shapes, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerError, DMFormerN, SemanticFPN, UPerNet, fuse
from dmformer_keras.data import load_image, open_source
from dmformer_keras.export import (
    compare_exported,
    load_exported,
    report_path,
    tflite,
    to_tflite,
)
from dmformer_keras.export.calibration import calibration_images, images_of
from dmformer_keras.export.preparation import prepare
from dmformer_keras.export.tflite_file import packed, schema, unpacked

pytest.importorskip("tensorflow", reason="TFLite conversion needs TensorFlow")
pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")

# On other backends the conversion runs in a TensorFlow process of some 20 s: a few are enough.
tensorflow_only = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="the converter itself is the same"
)
# Nothing else comes out: no Flex operator, nothing reordered around a dilation.
OPERATORS = {
    "ADD",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "DEQUANTIZE",
    "FULLY_CONNECTED",
    "GELU",
    "LOGISTIC",
    "MEAN",
    "MUL",
    "PAD",
    "QUANTIZE",
    "RESHAPE",
    "STRIDED_SLICE",
}
UNFUSED_OPERATORS = OPERATORS | {"CONCATENATION", "SPLIT"}


def test_classifier_agrees_and_has_only_built_in_operators(tmp_path):
    model = randomize(tiny_classifier(input_shape=(64, 96, 3), class_names=list("abcde")))
    path = to_tflite(model, tmp_path / "new folder" / "model.tflite")
    exported = load_exported(path)
    compared = compare_exported(model, exported, images(8, 64, 96, 3))
    assert compared["relative_difference"] <= 1e-4
    assert compared["top1_agreement"] == 1.0
    operators = exported.operators()
    assert set(operators) <= OPERATORS
    # One operator a level and block: nothing was split for its dilation. The kernels that
    # XNNPACK is slow with are sums by rows: 7x7 on 16x24 of three, 5x7 on 8x12 of two.
    assert operators["DEPTHWISE_CONV_2D"] == 3 * 5 + 2 + 1
    assert exported.class_names == list("abcde")
    assert sorted(os.listdir(path.parent)) == ["model.tflite", "model.tflite.report.json"]
    report = json.loads(report_path(path).read_text())
    assert report["operators"] == operators
    assert report["bytes"] == path.stat().st_size
    assert report["compared"]["origin"] == "made up"
    assert report["compared"]["relative_error"] <= 1e-4
    assert report["latency_ms"]["1"] > 0
    assert report["peak_memory_bytes"] > 0


@tensorflow_only
def test_nano_on_real_photographs(tmp_path, real_data):
    photographs = sorted((real_data / "demo").glob("*.jpg"))
    batch = np.stack([load_image(path, 96) for path in photographs]).astype("float32")
    model = randomize(DMFormerN(input_shape=(96, 96, 3), num_classes=1000))
    compared = compare_exported(model, to_tflite(model, tmp_path / "n.tflite"), batch)
    assert compared["relative_difference"] <= 1e-4
    assert compared["top1_agreement"] == 1.0


@tensorflow_only
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "unfused"])
def test_backbone_of_any_size_dilated_at_a_given_size(tmp_path, is_fused):
    backbone = randomize(tiny_backbone(input_shape=(None, None, 3), output_stride=8))
    path = to_tflite(
        backbone,
        tmp_path / "backbone.tflite",
        input_shape=(45, 64, 3),
        fuse=is_fused,
        batch_size=2,
        verify=False,
    )
    x = images(3, 45, 64, 3)
    exported = load_exported(path)
    assert exported.input.shape == (2, 45, 64, 3)
    outputs = exported.predict(x)
    np.testing.assert_allclose(outputs, array(backbone(x)), atol=1e-4 * np.abs(outputs).max())
    assert set(exported.operators()) <= (OPERATORS if is_fused else UNFUSED_OPERATORS)
    assert exported.description["task"] == "features"


@tensorflow_only
def test_a_resizable_file_takes_images_of_any_size(tmp_path):
    model = randomize(
        SemanticFPN(tiny_backbone(input_shape=(None, None, 3), **TINIEST), 3, head_channels=8)
    )
    path = to_tflite(model, tmp_path / "any.tflite", resizable=True, verify=False)
    exported = load_exported(path)
    assert exported.input.shape == (1, None, None, 3)
    assert not any("SPACE" in name or "Flex" in name for name in exported.operators())
    for size in ((64, 64), (50, 75), (64, 64)):
        x = images(2, *size, 3)
        assert compare_exported(model, exported, x)["relative_difference"] <= 1e-4


@tensorflow_only
@pytest.mark.parametrize("head", [SemanticFPN, UPerNet])
def test_segmenters(tmp_path, head):
    backbone = tiny_backbone(input_shape=(None, None, 3), **TINIEST)
    model = randomize(head(backbone, 3, head_channels=8, class_names=["a", "b", "c"]))
    path = to_tflite(model, tmp_path / "model.tflite", input_shape=(50, 64, 3), verify=False)
    compared = compare_exported(model, path, images(4, 50, 64, 3))
    assert compared["relative_difference"] <= 1e-4
    assert compared["top1_agreement"] >= 0.999
    assert load_exported(path).description["task"] == "segment"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model, and a file of it in float32."""
    model = randomize(tiny_classifier(**{**TINIEST, "channels": (16, 32, 64, 96)}))
    return model, to_tflite(model, tmp_path_factory.mktemp("plain") / "a.tflite", verify=False)


@tensorflow_only
@pytest.mark.parametrize(
    ("quantization", "most_bytes", "tolerance"),
    [("float16", 0.6, 0.01), ("dynamic", 0.6, 0.1), ("int8", 0.6, 0.15)],
)
def test_quantized_files_are_smaller_and_close(
    plain, tmp_path, quantization, most_bytes, tolerance, unmeasured
):
    model, plain_file = plain
    x = images(16, 64, 64, 3)
    int8 = quantization == "int8"
    options = {"representative_data": x} if int8 else {"verify": False}
    path = to_tflite(model, tmp_path / "small.tflite", quantization, **options)
    assert path.stat().st_size <= most_bytes * plain_file.stat().st_size
    assert compare_exported(model, path, x)["relative_difference"] <= tolerance
    if int8:
        report = json.loads(report_path(path).read_text())
        assert report["precision"] == "int8"
        assert report["compared"]["origin"] == "representative_data"


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """A model, images, and a file of it in int8 that takes and gives int8."""
    model = randomize(tiny_classifier())
    x = 0.4 * images(8, 64, 64, 3)  # dark: the input's range shall be that of all pixels
    options = {"representative_data": x, "int8_io": True, "verify": False}
    path = tmp_path_factory.mktemp("int8") / "model.tflite"
    return model, x, to_tflite(model, path, "int8", **options)


@tensorflow_only
def test_int8_weights_have_a_scale_for_each_channel_and_all_is_int8(int8):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    model, x, path = int8
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
    details = interpreter.get_tensor_details()
    assert not any(tensor["dtype"] == np.float32 for tensor in details)
    layers = [
        layer
        for layer in interpreter._get_ops_details()
        if layer["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D")
    ]
    by_index = {tensor["index"]: tensor for tensor in details}
    for layer in layers:
        kernel, output = by_index[layer["inputs"][1]], by_index[layer["outputs"][0]]
        assert len(kernel["quantization_parameters"]["scales"]) == output["shape"][3]
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["dtype"] == target["dtype"] == np.int8
    # Pixels are themselves: what a camera gives needs no arithmetic but an offset.
    np.testing.assert_allclose(source["quantization"], (1.0, -128), rtol=0.01)
    assert compare_exported(model, path, x)["relative_difference"] <= 0.15


@tensorflow_only
def test_equal_vectors_are_stored_once_and_weights_are_aligned(int8):
    tables = schema()
    *_, path = int8
    file = tables.Model.GetRootAs(path.read_bytes())
    buffers = [file.Buffers(index) for index in range(file.BuffersLength())]
    starts = [start for start in (_start(buffer, 0) for buffer in buffers) if start]
    assert len(starts) > 50
    assert not any(start % 16 for start in starts)
    graph = file.Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    scaled = [found for found in (tensor.Quantization() for tensor in tensors) if found]
    starts = {
        (_start(found, 3), found.ZeroPointAsNumpy().tobytes())
        for found in scaled
        if found.ZeroPointLength()
    }
    assert len({values for _, values in starts}) == len(starts) < len(scaled) / 4


def _start(table, slot):
    """Returns where the vector of a FlatBuffers table begins, or None."""
    field = table._tab.Offset(4 + 2 * slot)
    return table._tab.Vector(field) if field else None


@tensorflow_only
def test_int8_runs_where_a_layer_gives_almost_nothing(tmp_path, unmeasured):
    model = randomize(tiny_classifier(**TINIEST))
    gate = next(w for w in model.weights if "gate_reduce" in w.path and "bias" in w.path)
    kernel = next(w for w in model.weights if "gate_reduce" in w.path and "kernel" in w.path)
    gate.assign(np.full(gate.shape, 1e-6, "float32"))
    kernel.assign(-np.abs(array(kernel)))
    x = images(8, 64, 64, 3)
    path = to_tflite(model, tmp_path / "model.tflite", "int8", representative_data=x)
    assert compare_exported(model, path, x)["relative_difference"] <= 0.15


@tensorflow_only
@pytest.mark.parametrize("behind", ["UpSampling2D", "ZeroPadding2D", "MaxPooling2D"])
def test_int8_runs_where_almost_nothing_is_passed_on(tmp_path, behind):
    image = keras.Input((64, 64, 3))
    dead = keras.layers.Conv2D(4, 3, activation="relu")
    options = {"interpolation": "bilinear"} if behind == "UpSampling2D" else {}
    x = getattr(keras.layers, behind)(2, **options)(dead(image))
    model = keras.Model(image, keras.layers.Conv2D(3, 1, bias_initializer="ones")(x))
    kernel, bias = dead.get_weights()
    dead.set_weights([-np.abs(kernel), bias + 1e-4])
    data = images(4, 64, 64, 3)
    data[:, :32] = 0  # where alone anything comes out
    options = {"representative_data": data, "verify": False}
    path = to_tflite(model, tmp_path / "model.tflite", "int8", **options)
    np.testing.assert_allclose(load_exported(path).predict(data), array(model(data)), atol=0.02)


@tensorflow_only
def test_representative_data_of_a_source(tmp_path, unmeasured):
    pictures, masks, names = shapes(12)
    source = open_source((pictures, masks, names), "all", task="segment")
    backbone = tiny_backbone(input_shape=(None, None, 3), **TINIEST)
    model = randomize(SemanticFPN(backbone, 3, head_channels=8, class_names=names))
    path = to_tflite(
        model,
        tmp_path / "model.tflite",
        "int8",
        representative_data=source,
        images=source,
        input_shape=(64, 64, 3),
    )
    report = json.loads(report_path(path).read_text())
    assert report["compared"]["images"] == 12
    assert report["compared"]["origin"] == "given"


@pytest.mark.backend_independent
def test_arrays_with_labels_are_a_source_and_two_images_are_images():
    prepared = prepare(tiny_classifier(**TINIEST), None, fuse=True)
    x = np.uint8(images(10, 80, 64, 3))
    labels = np.arange(10) % 5
    for data in ((x, labels), (x, labels, list("abcde"))):
        found = calibration_images(data, prepared)
        assert found.shape == (5, 64, 64, 3)  # one of every class is left for validation
    sizes = [np.uint8(images(1, side, 64, 3)[0]) for side in (40, 50, 64, 64)]
    assert images_of((sizes, [0, 1, 0, 1]), prepared, "all", "images").shape == (4, 64, 64, 3)
    x = images(2, 64, 64, 3)
    np.testing.assert_array_equal(images_of(tuple(x), prepared, "train", "images"), x)
    backbone = tiny_backbone(input_shape=(64, 64, 1), **TINIEST)
    grey = prepare(SemanticFPN(backbone, 2, head_channels=8), None, fuse=True)
    squares = np.zeros((4, 64, 64), "uint8")
    squares[:, :32] = 1
    found = images_of((200 * squares, squares, ["a", "b"]), grey, "all", "images")
    np.testing.assert_array_equal(found[..., 0], 200.0 * squares)


@tensorflow_only
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_model_in_16_bits_is_exported_in_float32(tmp_path, data_format):
    shape = (64, 64, 3) if data_format == "channels_last" else (3, 64, 64)
    options = {"dtype": "mixed_bfloat16", "data_format": data_format, "input_shape": shape}
    model = tiny_classifier(**options, **TINIEST)
    path = to_tflite(randomize(model), tmp_path / "model.tflite", verify=False)
    exported = load_exported(path)
    assert set(exported.operators()) <= OPERATORS
    reference = tiny_classifier(**TINIEST)
    reference.set_weights(model.get_weights())
    compared = compare_exported(reference, exported, images(4, 64, 64, 3))
    assert compared["relative_difference"] <= 1e-4


def _keras_cv_classifier():
    keras_cv = pytest.importorskip("keras_cv", reason="KerasCV is not installed")
    backbone = keras_cv.models.DMFormerBackbone(**TINIEST, input_shape=(64, 64, 3))
    return keras_cv.models.ImageClassifier(backbone=backbone, num_classes=4)


def _keras_hub_classifier():
    keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")
    backbone = keras_hub.models.DMFormerBackbone(**TINIEST, image_shape=(64, 64, 3))
    return keras_hub.models.ImageClassifier(backbone=backbone, num_classes=4)


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    "build",
    [
        _keras_cv_classifier,
        _keras_hub_classifier,
        lambda: fuse(randomize(tiny_classifier(**TINIEST))),
    ],
    ids=["KerasCV", "KerasHub", "fused"],
)
def test_other_models_in_16_bits_are_prepared_in_float32(build):
    reference = build()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy("float32")
    reference.set_weights(randomize(model).get_weights())
    prepared = prepare(model, None, fuse=True)
    assert {layer.compute_dtype for layer in prepared.reference._flatten_layers()} == {"float32"}
    x = images(2, 64, 64, 3)
    expected = array(reference(x))
    for found in (prepared.reference, prepared.model):
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(array(found(x)), expected, atol=atol)
    assert keras.config.dtype_policy().name == "float32"


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """(names of classes, a file of a classifier that has them)."""
    names = ["cat", "dog", "owl", "fox", "elk"]
    model = randomize(tiny_classifier(class_names=names, name="five", **TINIEST))
    path = tmp_path_factory.mktemp("named") / "model.tflite"
    return names, to_tflite(model, path, verify=False)


@tensorflow_only
def test_what_another_program_needs_travels_inside(named):
    names, path = named
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split() == names
        description = json.loads(archive.read("model.json"))
    assert description["task"] == "classify"
    assert description["input"]["shape"] == [64, 64, 3]
    assert (description["input"]["mean"], description["input"]["std"]) == (0.0, 1.0)
    assert description["output"] == {"activation": "linear"}


def test_the_description_says_what_to_feed_and_what_comes_out():
    def described(model):
        description = prepare(model, None, fuse=True).description
        return (
            description["input"]["mean"],
            description["task"],
            description["output"]["activation"],
        )

    unscaled = tiny_classifier(include_rescaling=False, **TINIEST)
    assert described(unscaled) == (127.5, "classify", "linear")
    assert described(fuse(unscaled)) == (127.5, "classify", "linear")
    for model in (tiny_backbone(**TINIEST), fuse(tiny_backbone(**TINIEST))):
        assert described(model) == (0.0, "features", "linear")
    image = keras.Input((64, 64, 3))
    own = keras.layers.Conv2D(4, 3, activation="softmax")(
        keras.layers.Normalization(mean=0, variance=1)(image)
    )
    assert described(keras.Model(image, own)) == (0.0, "segment", "softmax")
    softmax = tiny_classifier(**TINIEST)
    assert described(keras.Model([softmax.input], [softmax.output])) == (0.0, "classify", "linear")


@tensorflow_only
def test_the_metadata_is_the_published_schema_s(named):
    _, path = named
    file = unpacked(path.read_bytes())
    (entry,) = (entry for entry in file.metadata if entry.name == b"TFLITE_METADATA")
    content = bytes(file.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    for text in (b"images", b"outputs", b"labels.txt"):
        assert text in content
    assert b"SEGMENTER_METADATA" not in content


@tensorflow_only
@pytest.mark.parametrize(("activation", "code"), [(None, 2), ("softmax", 0)])
def test_a_segmenter_s_metadata_says_what_is_left_to_do(tmp_path, activation, code):
    backbone = tiny_backbone(**TINIEST)
    model = SemanticFPN(backbone, 3, head_channels=8, activation=activation)
    path = to_tflite(model, tmp_path / "model.tflite", verify=False)
    file = unpacked(path.read_bytes())
    (entry,) = (entry for entry in file.metadata if entry.name == b"TFLITE_METADATA")
    content = bytes(file.buffers[entry.buffer].data)
    nested = content[content.index(b"V001") - 4 :]
    # A FlatBuffers table: its offset, its own table of slots, and there that of slot 0.
    root = int.from_bytes(nested[:4], "little")
    slots = root - int.from_bytes(nested[root : root + 4], "little", signed=True)
    first = int.from_bytes(nested[slots + 4 : slots + 6], "little")
    assert (nested[root + first] if first else 0) == code


@pytest.mark.slow(on=["jax", "torch"])
def test_a_keras_cv_classifier(tmp_path):
    model = _keras_cv_classifier()
    path = to_tflite(randomize(model), tmp_path / "model.tflite", verify=False)
    exported = load_exported(path)
    compared = compare_exported(model, exported, images(2, 64, 64, 3))
    assert compared["relative_difference"] <= 1e-4
    assert exported.description["task"] == "classify"
    assert exported.activation == "softmax"


@pytest.mark.slow
@tensorflow_only
def test_segmenters_of_keras_cv_and_keras_hub(tmp_path):
    keras_cv = pytest.importorskip("keras_cv", reason="KerasCV is not installed")
    keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")
    ours = keras_cv.models.DMFormerBackbone(**TINY, input_shape=(64, 64, 3))
    hub = keras_hub.models.DMFormerBackbone(**TINY, image_shape=(64, 64, 3))
    deeplab = keras_hub.models.DeepLabV3Backbone(
        image_encoder=hub,
        image_shape=hub.image_shape,
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
    )
    for number, model in enumerate(
        (
            keras_cv.models.DeepLabV3Plus(backbone=ours, num_classes=4),
            keras_hub.models.DeepLabV3ImageSegmenter(deeplab, num_classes=4),
        )
    ):
        path = to_tflite(randomize(model), tmp_path / f"{number}.tflite", verify=False)
        exported = load_exported(path)
        compared = compare_exported(model, exported, images(2, 64, 64, 3))
        assert compared["relative_difference"] <= 1e-3
        assert exported.description["task"] == "segment"


@tensorflow_only
def test_a_saved_fused_model_exports_like_its_original(tmp_path):
    model = randomize(tiny_classifier(class_names=list("abcde"), **TINIEST))
    fuse(model).save(tmp_path / "fused.keras")
    again = keras.saving.load_model(tmp_path / "fused.keras")
    path = to_tflite(again, tmp_path / "model.tflite", verify=False)
    assert compare_exported(model, path, images(4, 64, 64, 3))["relative_difference"] <= 1e-4
    assert load_exported(path).class_names == list("abcde")


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier(**TINIEST)


@pytest.mark.backend_independent
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
        ({"quantization": "int8", "representative_data": 3}, "must be a data source or images"),
        ({"quantization": "int8", "representative_data": "no/such/folder"}, "no/such/folder"),
        ({"int8_io": True}, "int8_io is for"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"tolerance": -1}, "tolerance must be"),
        ({"tolerance": 0.1, "verify": False}, "for verify=True"),
        ({"images": np.zeros((0, 64, 64, 3))}, "images must hold"),
        ({"input_shape": (32, 32, 3)}, "does not fit the model"),
        ({"input_shape": (None, 64, 3)}, "pass input_shape with a fixed"),
        ({"input_shape": 64}, "pass input_shape with a fixed"),
        ({"path": "file/model.tflite"}, "cannot be written"),
        ({"path": 3}, "must be a str or path"),
        ({"resizable": True}, "for a model of any size"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named_and_leave_nothing(classifier, tmp_path, arguments, message):
    arguments = dict(arguments)
    (tmp_path / "file").write_text("not a folder")
    path = arguments.pop("path", "model.tflite")
    path = tmp_path / path if isinstance(path, str) else path
    with pytest.raises(DMFormerError, match=message):
        to_tflite(classifier, path, **arguments)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.backend_independent
def test_models_that_cannot_be_exported_are_named(tmp_path):
    image = keras.Input((64, 64, 3))
    two = keras.Model(image, [image, image])
    vector = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for model, message in (
        (two, "one image input and one output"),
        (vector, "one image input"),
        (keras.Sequential([keras.layers.Dense(1)]), "functional"),
        ("dmformer_n", "functional"),
    ):
        with pytest.raises(DMFormerError, match=message):
            to_tflite(model, tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


@tensorflow_only
def test_an_operator_that_is_not_built_in_is_named(tmp_path):
    image = keras.Input((64, 64, 3))
    import tensorflow as tf

    class Special(keras.layers.Layer):
        def call(self, x):
            return tf.math.bessel_i0(x)

    model = keras.Model(image, Special()(image))
    with pytest.raises(DMFormerError, match="cannot convert"):
        to_tflite(model, tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


@pytest.mark.backend_independent
def test_failed_conversion_leaves_the_old_file(classifier, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    monkeypatch.setattr(tflite, "convert", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        to_tflite(classifier, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


@tensorflow_only
def test_data_that_lies_behind_the_model_comes_inside(named):
    _, path = named
    model = unpacked(path.read_bytes())
    largest = max(model.buffers, key=lambda buffer: 0 if buffer.data is None else len(buffer.data))
    data, largest.data = bytes(largest.data), None
    # The number that says where it lies takes as many bytes whatever it is.
    largest.offset, largest.size = 2, len(data)
    largest.offset = len(packed(model))
    content = packed(model) + data
    found = unpacked(content)
    (buffer,) = (
        buffer for buffer in found.buffers if buffer.data is not None and bytes(buffer.data) == data
    )
    assert buffer.offset == buffer.size == 0
