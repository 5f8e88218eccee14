"""SemanticFPN and UPerNet: faithful heads, logits of the image's size, presets, other backbones."""

from typing import ClassVar

import keras
import pytest
from helpers import TINIEST, images, randomize, tiny_backbone, tiny_classifier
from keras import layers
from suites import CLASSES, LEVELS, TaskSuite, difference

import dmformer_keras
from dmformer_keras import DMFormerBackbone, DMFormerError, SemanticFPN, UPerNet
from dmformer_keras.segmenter import pyramid_outputs

HEADS = [SemanticFPN, UPerNet]
# Each backend has cases enough without it.
once = pytest.mark.once_under_torch


def segmenter(cls, size=(64, 64), channels=16, **arguments):
    backbone_arguments = {
        key: arguments.pop(key)
        for key in ("output_stride", "dtype", "data_format")
        if key in arguments
    }
    shape = (3, *size) if backbone_arguments.get("data_format") == "channels_first" else (*size, 3)
    backbone = tiny_backbone(input_shape=shape, **TINIEST, **backbone_arguments)
    return cls(backbone, 5, head_channels=channels, **arguments)


class SegmenterSuite(TaskSuite):
    arguments: ClassVar[dict] = {"head_channels": 8}
    named: ClassVar[dict] = {
        "class_names": CLASSES,
        "class_colors": [[index, 2, 3] for index in range(5)],
    }
    fusable: ClassVar[dict] = {"normalization": "batch"}


class TestSemanticFPN(SegmenterSuite):
    cls = SemanticFPN


class TestUPerNet(SegmenterSuite):
    cls = UPerNet


class _Reference:
    """The heads as the papers draw them, of Keras's own layers, for sizes in multiples of 32."""

    def __init__(self, head):
        self.head = head

    def convolution(self, name):
        return self.head.get_layer(f"{name}_conv")

    def normalized(self, name, x):
        x = self.convolution(name)(x)
        return layers.ReLU()(self.head.get_layer(f"{name}_norm")(x))

    def semantic_fpn(self, pyramid):
        x, merged = None, {}
        for level in reversed(LEVELS):
            lateral = self.convolution(f"{level.lower()}_lateral")(pyramid[level])
            x = lateral if x is None else lateral + layers.UpSampling2D(2)(x)
            merged[level] = x
        total = 0
        for index, level in enumerate(LEVELS):
            x = self.convolution(f"{level.lower()}_output")(merged[level])
            for step in range(1, max(index, 1) + 1):
                x = self.normalized(f"{level.lower()}_branch{step}", x)
                if index:
                    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
            total = total + x
        return total

    def upernet(self, pyramid):
        coarsest = pyramid["P5"]
        side = coarsest.shape[1]
        pooled = [coarsest]
        for size in (1, 2, 3, 6):
            x = self.normalized(f"pool{size}_projection", layers.AveragePooling2D(side // size)(
                coarsest
            ))  # fmt: skip
            pooled.append(layers.UpSampling2D(side // size, interpolation="bilinear")(x))
        outputs = [self.normalized("p5_output", layers.Concatenate()(pooled))]
        x = outputs[0]
        for level in reversed(LEVELS[:-1]):
            above = layers.UpSampling2D(2, interpolation="bilinear")(x)
            x = self.normalized(f"{level.lower()}_lateral", pyramid[level]) + above
            outputs.insert(0, self.normalized(f"{level.lower()}_output", x))
        resized = [outputs[0]] + [
            layers.UpSampling2D(2**index, interpolation="bilinear")(output)
            for index, output in enumerate(outputs[1:], 1)
        ]
        return self.normalized("fusion", layers.Concatenate()(resized))


@pytest.mark.parametrize(
    ("cls", "normalization"), [(SemanticFPN, "group"), (SemanticFPN, "batch"), (UPerNet, "batch")]
)
def test_the_heads_are_the_papers(cls, normalization):
    # 192 pixels: P5 is 6 x 6, which all the pooled sizes divide.
    model = randomize(segmenter(cls, (192, 192), normalization=normalization))
    x = images(2, 192, 192, 3)
    extractor = keras.Model(model.backbone.input, model.backbone.pyramid_outputs)
    pyramid = extractor(x)
    reference = _Reference(model.head)
    build = reference.semantic_fpn if cls is SemanticFPN else reference.upernet
    logits = model.head.get_layer("logits")(build(pyramid))
    expected = layers.UpSampling2D(4, interpolation="bilinear")(logits)
    assert difference(model(x, training=False), expected) < 1e-5


@pytest.mark.parametrize("cls", HEADS)
@pytest.mark.parametrize(
    "size", [(45, 70), *(pytest.param(size, marks=once) for size in ((64, 96), (33, 161)))]
)
def test_logits_have_the_image_s_size_and_unknown_sizes_change_nothing(cls, size):
    model = randomize(segmenter(cls, (None, None)))
    fixed = segmenter(cls, size)
    fixed.set_weights(model.get_weights())
    x = images(1, *size, 3)
    outputs = model(x, training=False)
    assert tuple(outputs.shape) == (1, *size, 5)
    assert fixed.output.shape == (None, *size, 5)
    assert difference(outputs, fixed(x, training=False)) < 1e-5


@pytest.mark.slow(on=["jax"])  # which compiles anew for each size
@pytest.mark.parametrize("cls", HEADS)
def test_one_compiled_model_takes_image_after_image(cls):
    # TensorFlow traces the second size for any, the third is run by that.
    model = randomize(segmenter(cls, (None, None), channels=8))
    # As it does a side alone, where the other stays the same.
    for size in ((64, 64), (70, 64), (70, 96), (50, 61)):
        x = images(1, *size, 3)
        assert difference(model.predict_on_batch(x), model(x, training=False)) < 1e-5


@pytest.mark.once_under_torch
@pytest.mark.parametrize("cls", HEADS)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_strides_are_respected(cls, output_stride):
    model = segmenter(cls, (64, 64), output_stride=output_stride)
    coarsest = model.get_layer("pyramid").outputs[-1]
    assert coarsest.shape[1] == 64 // output_stride
    assert model(images(1, 64, 64, 3)).shape == (1, 64, 64, 5)
    if cls is SemanticFPN:
        steps = [layer.name for layer in model.head.layers if "p5_branch" in layer.name]
        upsampled = [name for name in steps if name.endswith("upsampling")]
        assert len(upsampled) == {8: 1, 16: 2}[output_stride]


@pytest.mark.once_under_torch
@pytest.mark.parametrize("cls", HEADS)
def test_a_preset_of_another_task_gives_its_backbone(cls, tmp_path):
    classifier = randomize(tiny_classifier())
    classifier.save_to_preset(tmp_path / "classifier")
    model = cls.from_preset(tmp_path / "classifier", num_classes=3, head_channels=8)
    x = images(1, 64, 64, 3)
    assert difference(model.backbone(x), classifier.backbone(x)) == 0
    assert model.class_names is None
    with pytest.raises(DMFormerError, match="give num_classes"):
        cls.from_preset(tmp_path / "classifier")
    model.save_to_preset(tmp_path / "segmenter")
    back = dmformer_keras.DMFormerClassifier.from_preset(tmp_path / "segmenter", num_classes=3)
    assert difference(back.backbone(x), classifier.backbone(x)) == 0


@pytest.mark.once_under_torch
def test_another_number_of_classes_starts_another_head(tmp_path):
    model = segmenter(SemanticFPN, class_names=list("abcde"))
    model.save_to_preset(tmp_path)
    other = SemanticFPN.from_preset(tmp_path, num_classes=2)
    assert other.output.shape[-1] == 2
    assert other.class_names is None
    assert other.head_channels == 16
    same = SemanticFPN.from_preset(tmp_path, num_classes=5, head_channels=None, dropout=0.3)
    assert (same.head_channels, same.dropout) == (16, 0.3)
    x = images(1, 64, 64, 3)
    assert difference(same(x), model(x)) == 0


@pytest.mark.once_under_torch
def test_kerashub_and_kerascv_backbones_are_taken():
    keras_hub = pytest.importorskip("keras_hub")
    keras_cv = pytest.importorskip("keras_cv")
    hub = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8, 8, 8],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(64, 64, 3),
    )
    cv = keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[8, 8, 8, 8],
        stackwise_blocks=[2, 2, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=True,
        input_shape=(64, 64, 3),
    )
    for backbone in (hub, cv):
        assert list(pyramid_outputs(backbone)) == list(LEVELS)
        for cls in HEADS:
            model = cls(backbone, 4, head_channels=8)
            assert model(images(1, 64, 64, 3)).shape == (1, 64, 64, 4)
    with pytest.raises(DMFormerError, match="preset holds a DMFormerBackbone"):
        model.save_to_preset("nowhere")


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_channels": 1.5}, "head_channels"),
        ({"normalization": "layer"}, "normalization"),
        ({"class_colors": [(0, 0, 256)] * 5}, "class_colors"),
    ],
)
@pytest.mark.parametrize("cls", HEADS)
def test_wrong_arguments_are_named(cls, arguments, message):
    with pytest.raises(DMFormerError, match=message):
        cls(tiny_backbone(), **{"num_classes": 5, **arguments})


@pytest.mark.once_under_torch
def test_a_model_without_a_pyramid_is_refused():
    inputs = keras.Input((64, 64, 3))
    plain = keras.Model(inputs, layers.Conv2D(4, 3)(inputs), name="plain")
    with pytest.raises(DMFormerError, match="'plain' has no P2"):
        SemanticFPN(plain, 3)


@pytest.mark.once_under_torch
def test_built_in_architectures_carry_the_heads():
    backbone = DMFormerBackbone.from_preset("dmformer_t", input_shape=(None, None, 3))
    model = SemanticFPN(backbone, num_classes=11)
    assert model.output.shape == (None, None, None, 11)
