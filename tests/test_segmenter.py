"""SemanticFPN and UPerNet: faithful heads, logits of the image's size, presets, other backbones."""

import keras
import numpy as np
import pytest
from helpers import array, images, randomize, tiny_backbone, tiny_classifier
from keras import layers

import dmformer_keras
from dmformer_keras import DMFormerBackbone, DMFormerError, SemanticFPN, UPerNet
from dmformer_keras.segmenter import pyramid_outputs
from dmformer_keras.training import is_segmenter, load_trained

HEADS = [SemanticFPN, UPerNet]
LEVELS = ("P2", "P3", "P4", "P5")


def segmenter(cls, size=(64, 64), channels=16, **arguments):
    backbone_arguments = {
        key: arguments.pop(key)
        for key in ("output_stride", "dtype", "data_format")
        if key in arguments
    }
    shape = (3, *size) if backbone_arguments.get("data_format") == "channels_first" else (*size, 3)
    backbone = tiny_backbone(input_shape=shape, **backbone_arguments)
    return cls(backbone, 5, head_channels=channels, **arguments)


def difference(one, other):
    one, other = array(one), array(other)
    assert one.shape == other.shape
    return np.abs(one - other).max() / np.abs(other).max()


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
@pytest.mark.parametrize("size", [(64, 96), (45, 70), (33, 161)])
def test_logits_have_the_image_s_size_and_unknown_sizes_change_nothing(cls, size):
    model = randomize(segmenter(cls, (None, None)))
    fixed = segmenter(cls, size)
    fixed.set_weights(model.get_weights())
    x = images(1, *size, 3)
    outputs = model(x, training=False)
    assert tuple(outputs.shape) == (1, *size, 5)
    assert fixed.output.shape == (None, *size, 5)
    assert difference(outputs, fixed(x, training=False)) < 1e-5


@pytest.mark.parametrize("cls", HEADS)
def test_one_compiled_model_takes_image_after_image(cls):
    # TensorFlow traces the second size for any, the third is run by that.
    model = randomize(segmenter(cls, (None, None), channels=8))
    # As it does a side alone, where the other stays the same.
    for size in ((64, 64), (70, 64), (70, 96), (50, 61)):
        x = images(1, *size, 3)
        assert difference(model.predict_on_batch(x), model(x, training=False)) < 1e-5


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


@pytest.mark.parametrize("cls", HEADS)
def test_presets_and_keras_files_keep_everything(cls, tmp_path):
    names, colors = list("abcde"), [[index, 2, 3] for index in range(5)]
    model = randomize(segmenter(cls, (None, None), class_names=names, class_colors=colors))
    model.save_to_preset(tmp_path / "preset")
    model.save(tmp_path / "model.keras")
    x = images(1, 50, 64, 3)
    for again in (
        cls.from_preset(tmp_path / "preset"),
        keras.saving.load_model(tmp_path / "model.keras"),
    ):
        assert difference(again(x, training=False), model(x, training=False)) < 1e-6
        assert (again.class_names, again.class_colors) == (names, colors)


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


@pytest.mark.parametrize("cls", HEADS)
def test_fusing_leaves_no_norm_and_the_same_masks(cls, tmp_path):
    colors = [[index, 2, 3] for index in range(5)]
    model = randomize(segmenter(cls, (None, None), normalization="batch", class_colors=colors))
    fused = dmformer_keras.fuse(model)
    kinds = [type(layer).__name__ for layer in fused._flatten_layers()]
    assert not [kind for kind in kinds if "Norm" in kind]
    x = images(1, 70, 96, 3)
    assert difference(fused(x), model(x, training=False)) < 1e-4
    assert fused.num_classes == 5
    fused.save(tmp_path / "fused.keras")
    again = load_trained(tmp_path / "fused.keras")
    assert is_segmenter(again)
    assert again.class_colors == colors
    assert difference(again.predict_on_batch(x), model(x, training=False)) < 1e-4


@pytest.mark.parametrize("cls", HEADS)
def test_every_weight_of_the_head_is_trained(cls):
    model = segmenter(cls)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [array(weight) for weight in model.head.trainable_variables]
    masks = np.random.default_rng(0).integers(0, 5, (2, 64, 64))
    model.train_on_batch(images(2, 64, 64, 3), masks)
    for old, weight in zip(before, model.head.trainable_variables, strict=True):
        assert np.abs(array(weight) - old).max() > 0, weight.path


@pytest.mark.parametrize("cls", HEADS)
def test_an_activation_is_over_the_classes(cls):
    outputs = array(segmenter(cls, activation="softmax")(images(1, 64, 64, 3)))
    np.testing.assert_allclose(outputs.sum(-1), 1, rtol=1e-5)


@pytest.mark.skipif(
    keras.config.backend() == "tensorflow",
    reason="TensorFlow has no channels_first convolution on the CPU",
)
@pytest.mark.parametrize("cls", HEADS)
def test_channels_first_is_the_same_model(cls):
    last = randomize(segmenter(cls, activation="softmax"))
    first = segmenter(cls, activation="softmax", data_format="channels_first")
    first.set_weights(last.get_weights())
    x = images(1, 64, 64, 3)
    outputs = np.moveaxis(array(first(np.moveaxis(x, -1, 1))), 1, -1)
    assert difference(outputs, last(x)) < 1e-4


@pytest.mark.parametrize("cls", HEADS)
def test_half_precision_gives_finite_logits(cls):
    outputs = segmenter(cls, dtype="mixed_bfloat16")(images(1, 64, 64, 3))
    assert np.isfinite(array(keras.ops.cast(outputs, "float32"))).all()


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"head_channels": 1.5}, "head_channels"),
        ({"normalization": "layer"}, "normalization"),
        ({"dropout": 1.0}, "dropout"),
        ({"activation": "sofmax"}, "activation"),
        ({"class_names": ["a"]}, "class_names"),
        ({"class_colors": [(0, 0, 256)] * 5}, "class_colors"),
    ],
)
@pytest.mark.parametrize("cls", HEADS)
def test_wrong_arguments_are_named(cls, arguments, message):
    with pytest.raises(DMFormerError, match=message):
        cls(tiny_backbone(), **{"num_classes": 5, **arguments})


def test_a_model_without_a_pyramid_is_refused():
    inputs = keras.Input((64, 64, 3))
    plain = keras.Model(inputs, layers.Conv2D(4, 3)(inputs), name="plain")
    with pytest.raises(DMFormerError, match="'plain' has no P2"):
        SemanticFPN(plain, 3)


def test_built_in_architectures_carry_the_heads():
    backbone = DMFormerBackbone.from_preset("dmformer_t", input_shape=(None, None, 3))
    model = SemanticFPN(backbone, num_classes=11)
    assert model.output.shape == (None, None, None, 11)
