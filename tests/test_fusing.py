"""`fuse`: the same function of the image, without a BatchNormalization."""

import keras
import numpy as np
import pytest
from helpers import array, features, images, randomize, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerError, fuse
from dmformer_keras.layers import DMFormerBlock, DynamicMultilevelAttention
from dmformer_keras.layers.attention import DEFAULT_LEVELS

SMALL = {
    "channels": (8, 12, 16, 24),
    "depths": (1, 1, 1, 1),
    "levels": ((3, 1), (3, 2)),
    "input_shape": (48, 32, 3),
}
BATCH_NORM = keras.layers.BatchNormalization
# Each backend has cases enough without it.
once = pytest.mark.once_under_torch


def randomized(model):
    """Gives every weight a random value; some factors of the norms are negative, some tiny."""
    randomize(model)
    random = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, BATCH_NORM):
            shape = layer.moving_mean.shape
            if layer.scale:
                signs = random.choice([-1.0, 1.0, 1e-4], shape, p=[0.3, 0.6, 0.1])
                layer.gamma.assign(signs * random.uniform(0.5, 1.5, shape))
            layer.moving_mean.assign(random.normal(0, 1, shape))
            layer.moving_variance.assign(random.uniform(0.1, 3, shape))
    return model


def norms(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, BATCH_NORM)]


def scales_and_offsets(model):
    return [layer.name for layer in model.layers if type(layer).__name__ == "ScaleAndOffset"]


def assert_same(fused, model, x, tolerance=1e-4):
    assert norms(model)
    assert not norms(fused)
    expected, found = model(x, training=False), fused(x, training=False)
    keras.tree.assert_same_structure(expected, found)
    for e, f in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
        e, f = (array(keras.ops.cast(tensor, "float32")) for tensor in (e, f))
        assert np.abs(e - f).max() <= tolerance * np.abs(e).max()
        assert e.std() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"levels": DEFAULT_LEVELS},
        pytest.param({"use_gate": False}, marks=once),
        pytest.param({"inner_residual": False}, marks=once),
        {"use_gate": False, "inner_residual": False, "layer_scale": 0.3},
        {"layer_scale": 0.3, "stochastic_depth": 0.2, "gate_reduction": 1},
        pytest.param({"levels": ((5, 2),), "mlp_ratio": 2.5, "activation": "silu"}, marks=once),
        pytest.param({"levels": ((3, 1), (7, 3)), "activation": "relu"}, marks=once),
        pytest.param({"output_stride": 16}, marks=once),
        {"output_stride": 8, "include_rescaling": False},
        {"input_shape": (None, None, 1)},
    ],
    ids=str,
)
def test_backbones_of_every_kind(options):
    model = randomized(tiny_backbone(**{**SMALL, **options}))
    fused = fuse(model)
    assert fused.input.shape == model.input.shape
    assert fused.output.shape == model.output.shape
    assert_same(fused, model, images(2, 48, 32, model.input.shape[-1]))
    assert not scales_and_offsets(fused)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_classifier(activation):
    model = randomized(tiny_classifier(**SMALL, class_names=list("abcde")))
    model = type(model).from_config({**model.get_config(), "activation": activation})
    randomized(model)
    fused = fuse(model)
    assert_same(fused, model, images(2, 48, 32, 3))
    assert not scales_and_offsets(fused)
    assert fused.class_names == list("abcde")
    assert fused.name == model.name
    assert fused.count_params() < model.count_params()


def test_channels_first():
    # Stage 1 is as wide as it has channels: Keras's bias goes astray there under TensorFlow.
    model = tiny_backbone(**{**SMALL, "input_shape": (3, 48, 32)}, data_format="channels_first")
    model = randomized(keras.Model(model.input, model.pyramid_outputs))
    assert_same(fuse(model), model, images(2, 3, 48, 32))


@pytest.mark.once_under_torch
def test_pyramid_stays_a_dictionary():
    backbone = tiny_backbone(**SMALL)
    model = randomized(keras.Model(backbone.input, backbone.pyramid_outputs))
    fused = fuse(model)
    assert set(fused.output) == {"P2", "P3", "P4", "P5"}
    assert_same(fused, model, images(2, 48, 32, 3))


@pytest.mark.once_under_torch
def test_names_of_feature_layers_stay():
    model = randomized(tiny_classifier(**SMALL))
    fused = fuse(model)
    for level, name in model.backbone.pyramid_level_inputs.items():
        feature = keras.Model(fused.input, fused.get_layer(name).output)
        expected = keras.Model(model.backbone.input, model.backbone.pyramid_outputs[level])
        assert_same(feature, expected, images(1, 48, 32, 3))


@pytest.mark.parametrize(
    "dtype",
    [
        "mixed_bfloat16",
        pytest.param("bfloat16", marks=once),
        pytest.param("mixed_float16", marks=once),
    ],
)
def test_half_precision(dtype):
    exact = randomized(tiny_classifier(**SMALL))
    half = tiny_classifier(**SMALL, dtype=dtype)
    half.set_weights(exact.get_weights())
    fused = fuse(half)
    assert fused.get_layer("stage1_block1").compute_dtype == half.compute_dtype
    x = images(2, 48, 32, 3)
    expected = array(exact(x, training=False))
    errors = [
        np.abs(array(keras.ops.cast(model(x, training=False), "float32")) - expected).max()
        for model in (half, fused)
    ]
    # As far from the exact values as the original is, not farther.
    assert errors[1] <= 2 * errors[0] + 0.01 * np.abs(expected).max()


@pytest.mark.once_under_torch
def test_the_original_is_unchanged():
    model = randomized(tiny_classifier(**SMALL))
    x = images(2, 48, 32, 3)
    weights, output = model.get_weights(), array(model(x, training=False))
    layers = [layer for layer in model._flatten_layers() if hasattr(layer, "_inbound_nodes")]
    nodes = [len(layer._inbound_nodes) for layer in layers]
    fused = fuse(model)
    for variable in fused.weights:
        variable.assign(np.zeros(variable.shape))
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(array(model(x, training=False)), output)
    assert [len(layer._inbound_nodes) for layer in layers] == nodes
    assert {id(v) for v in fused.weights}.isdisjoint(id(v) for v in model.weights)


def test_training_mode_makes_no_difference():
    fused = fuse(randomized(tiny_classifier(**SMALL, stochastic_depth=0.5)))
    x = images(2, 48, 32, 3)
    weights = fused.get_weights()
    np.testing.assert_array_equal(array(fused(x, training=True)), array(fused(x, training=False)))
    for before, after in zip(weights, fused.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def functional(build, shape=(12, 10, 4)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, build(inputs))


LAYERS = keras.layers
FOLDED_BEFORE = {
    "convolution": lambda x: BATCH_NORM()(LAYERS.Conv2D(6, 3, padding="same")(x)),
    "without bias": lambda x: BATCH_NORM()(LAYERS.Conv2D(6, 3, use_bias=False)(x)),
    "groups": lambda x: BATCH_NORM()(LAYERS.Conv2D(6, 3, groups=2)(x)),
    "depthwise": lambda x: BATCH_NORM()(
        LAYERS.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    ),
    "transposed": lambda x: BATCH_NORM()(LAYERS.Conv2DTranspose(5, 3, strides=2)(x)),
    "dense": lambda x: BATCH_NORM()(LAYERS.Dense(7)(x)),
    "twice": lambda x: BATCH_NORM()(BATCH_NORM()(LAYERS.Conv2D(6, 3)(x))),
    "no gamma": lambda x: BATCH_NORM(scale=False)(LAYERS.Conv2D(6, 3)(x)),
    "no beta": lambda x: BATCH_NORM(center=False)(LAYERS.Conv2D(6, 3)(x)),
    "nested": lambda x: keras.Sequential([LAYERS.Conv2D(6, 3), BATCH_NORM(), LAYERS.ReLU()])(x),
}
FOLDED_BEHIND = {
    "1x1": lambda x: LAYERS.Conv2D(5, 1, padding="same", strides=2, activation="relu")(
        BATCH_NORM()(x)
    ),
    "valid": lambda x: LAYERS.Conv2D(5, 3, use_bias=False, dilation_rate=2)(BATCH_NORM()(x)),
    "depthwise": lambda x: LAYERS.DepthwiseConv2D(3, depth_multiplier=2)(BATCH_NORM()(x)),
    "pooled": lambda x: LAYERS.Dense(3)(
        LAYERS.Dropout(0.5)(LAYERS.GlobalAveragePooling2D()(BATCH_NORM()(x)))
    ),
    "two": lambda x: [LAYERS.Dense(3)(y := BATCH_NORM()(x)), LAYERS.Conv2D(2, 2)(y)],
}


def shared_convolution(x):
    convolution = LAYERS.Conv2D(4, 3, padding="same")
    return BATCH_NORM()(convolution(BATCH_NORM()(convolution(x))))


def shared_norm(x):
    norm = BATCH_NORM()
    return LAYERS.ReLU()(norm(LAYERS.ReLU()(norm(x))))


KEPT_APART = {
    "padded convolution": lambda x: LAYERS.Conv2D(5, 3, padding="same")(BATCH_NORM()(x)),
    "padded depthwise": lambda x: LAYERS.DepthwiseConv2D(3, padding="same")(BATCH_NORM()(x)),
    "groups": lambda x: LAYERS.Conv2D(6, 1, groups=2)(BATCH_NORM()(x)),
    "activation between": lambda x: BATCH_NORM()(LAYERS.Conv2D(5, 3, activation="relu")(x)),
    "used twice": lambda x: LAYERS.Add()([y := LAYERS.Conv2D(5, 3)(x), BATCH_NORM()(y)]),
    "convolution is an output": lambda x: [y := LAYERS.Conv2D(5, 3)(x), BATCH_NORM()(y)],
    "norm and relu": lambda x: LAYERS.ReLU()(BATCH_NORM()(x)),
    "another axis": lambda x: BATCH_NORM(axis=1)(LAYERS.Conv2D(5, 3)(x)),
    "another axis behind": lambda x: LAYERS.Dense(3)(BATCH_NORM(axis=2)(x)),
    "another axis pooled": lambda x: LAYERS.Dense(3)(
        LAYERS.GlobalAveragePooling2D()(BATCH_NORM(axis=1)(x))
    ),
    "one more use": lambda x: [LAYERS.Dense(3)(y := BATCH_NORM()(x)), LAYERS.ReLU()(y)],
    "is an output": lambda x: [LAYERS.Dense(3)(y := BATCH_NORM()(x)), y],
    "shared convolution": shared_convolution,
    "shared norm": shared_norm,
}


@pytest.mark.parametrize("case", FOLDED_BEFORE)
def test_norm_behind_a_linear_layer_is_folded(case):
    model = randomized(functional(FOLDED_BEFORE[case]))
    fused = fuse(model)
    assert_same(fused, model, features(2, 12, 10, 4))
    assert not scales_and_offsets(fused)


@pytest.mark.parametrize("case", FOLDED_BEHIND)
def test_norm_before_a_linear_layer_is_folded(case):
    model = randomized(functional(FOLDED_BEHIND[case]))
    fused = fuse(model)
    assert_same(fused, model, features(2, 12, 10, 4))
    assert not scales_and_offsets(fused)


@pytest.mark.once_under_torch
@pytest.mark.parametrize("case", KEPT_APART)
def test_norm_that_cannot_be_folded_becomes_a_factor_and_an_offset(case, tmp_path):
    model = randomized(functional(KEPT_APART[case]))
    fused = fuse(model)
    x = features(2, 12, 10, 4)
    assert_same(fused, model, x)
    assert scales_and_offsets(fused)
    fused.save(tmp_path / "fused.keras")
    assert_same(keras.models.load_model(tmp_path / "fused.keras"), model, x)


def test_our_layers_alone_in_a_model():
    model = randomized(
        functional(
            lambda x: DynamicMultilevelAttention(((3, 1), (3, 2)))(DMFormerBlock(((5, 1),))(x))
        )
    )
    assert_same(fuse(model), model, features(2, 12, 10, 4))


@pytest.mark.once_under_torch
def test_segmenter_of_plain_layers():
    backbone = tiny_backbone(**SMALL)
    levels = list(backbone.pyramid_outputs.values())
    size = levels[0].shape[1:3]
    maps = []
    for level in levels:
        x = LAYERS.Conv2D(8, 3, padding="same", use_bias=False)(level)
        x = LAYERS.ReLU()(BATCH_NORM()(x))
        maps.append(LAYERS.Resizing(*size)(x))
    x = LAYERS.Add()(maps[:2]) + maps[2] * 0.5
    x = keras.ops.concatenate([x, maps[3]], axis=-1)
    x = LAYERS.Conv2D(3, 1)(x)
    model = randomized(keras.Model(backbone.input, LAYERS.UpSampling2D(4)(x)))
    fused = fuse(model)
    assert_same(fused, model, images(2, 48, 32, 3))
    assert not scales_and_offsets(fused)


@pytest.mark.once_under_torch
def test_several_inputs_and_equal_names():
    first, second = keras.Input((8, 8, 3), name="first"), keras.Input((8, 8, 3), name="second")

    def tower(name):
        inputs = keras.Input((8, 8, 3))
        x = LAYERS.ReLU(name="second")(BATCH_NORM()(LAYERS.Conv2D(4, 3, name="same")(inputs)))
        return keras.Model(inputs, x, name=name)

    left = tower("left")
    outputs = LAYERS.Add()([left(first), tower("right")(second), left(second)])
    model = randomized(keras.Model({"first": first, "second": second}, outputs))
    fused = fuse(model)
    assert {"same", "right_same", "second", "left_second", "right_second"} <= {
        layer.name for layer in fused.layers
    }
    x = {"first": features(2, 8, 8, 3), "second": features(2, 8, 8, 3, seed=1)}
    assert_same(fused, model, x)


@keras.saving.register_keras_serializable(package="test_fuse")
class Composite(keras.layers.Layer):
    """Norms in a layer, in a model inside it and behind an operation."""

    def build(self, input_shape):
        channels = input_shape[-1]
        self.branch = keras.Sequential([LAYERS.Conv2D(channels, 1), BATCH_NORM()])
        self.branch.build(input_shape)
        self.norm = BATCH_NORM()
        self.norm.build(input_shape)

    def call(self, inputs, training=None):
        x = keras.ops.relu(self.branch(inputs, training=training))
        return self.norm(x + inputs, training=training)


@keras.saving.register_keras_serializable(package="test_fuse")
class OwnWeight(Composite):
    def build(self, input_shape):
        super().build(input_shape)
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs, training=None):
        return super().call(inputs, training=training) * self.factor


@keras.saving.register_keras_serializable(package="test_fuse")
class Batch(Composite):
    def call(self, inputs, training=None):
        outputs = super().call(inputs, training=training)
        return outputs if keras.ops.shape(inputs)[0] is None else outputs * 2


@keras.saving.register_keras_serializable(package="test_fuse")
class OwnNorm(BATCH_NORM):
    pass


@pytest.mark.once_under_torch
def test_composite_layer_is_taken_apart():
    model = randomized(functional(Composite(name="composite")))
    fused = fuse(model)
    assert_same(fused, model, features(2, 12, 10, 4))
    assert len(scales_and_offsets(fused)) == 1


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (OwnWeight(name="weighted"), "'weighted', a OwnWeight, holds .* weights of its own"),
        (Batch(name="batch"), "'batch', a Batch, .* every batch"),
        (OwnNorm(name="mine"), "'mine' is a OwnNorm"),
        (lambda x: BATCH_NORM(name="live")(x, training=True), "'live' is called with training"),
    ],
    ids=["own weight", "batch", "own norm", "training"],
)
def test_what_cannot_be_fused_is_named(build, message):
    model = functional(build)
    with pytest.raises(DMFormerError, match=message):
        fuse(model)


@pytest.mark.once_under_torch
def test_subclassed_and_unbuilt_models_are_refused():
    class Subclassed(keras.Model):
        pass

    for model in (Subclassed(), keras.Sequential([BATCH_NORM()]), "model"):
        with pytest.raises(DMFormerError, match="functional or built sequential"):
            fuse(model)


@pytest.mark.once_under_torch
def test_sequential_model():
    model = keras.Sequential([keras.Input((8, 8, 3)), LAYERS.Conv2D(4, 3), BATCH_NORM()])
    assert_same(fuse(randomized(model)), model, features(2, 8, 8, 3))


def test_dynamic_sizes_at_several_sizes():
    model = randomized(tiny_backbone(**{**SMALL, "input_shape": (None, None, 3)}))
    fused = fuse(model)
    for size in ((48, 32), (33, 65)):
        assert_same(fused, model, images(1, *size, 3))


@pytest.mark.backend_independent
def test_tflite(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")
    from dmformer_keras.export import compare_exported, to_tflite

    model = randomized(tiny_classifier(**SMALL))
    path = to_tflite(fuse(model), tmp_path / "fused.tflite", verify=False)
    compared = compare_exported(model, path, images(2, 48, 32, 3))
    assert compared["relative_difference"] <= 1e-4


def keras_cv_tasks():
    keras_cv = pytest.importorskip("keras_cv", reason="KerasCV is not installed")
    models = keras_cv.models
    backbone = {**SMALL, "input_shape": (64, 64, 3)}
    for task, options in (
        (models.ImageClassifier, {}),
        (models.DeepLabV3Plus, {"projection_filters": 8}),
        (models.SegFormer, {"projection_filters": 8}),
    ):
        yield task(backbone=models.DMFormerBackbone(**backbone), num_classes=3, **options)


def keras_hub_tasks():
    models = pytest.importorskip("keras_hub", reason="KerasHub is not installed").models
    shape = (64, 64, 3)
    backbone = {
        "channels": SMALL["channels"],
        "depths": SMALL["depths"],
        "levels": SMALL["levels"],
        "image_shape": shape,
    }
    yield models.ImageClassifier(backbone=models.DMFormerBackbone(**backbone), num_classes=3)
    yield models.DeepLabV3ImageSegmenter(
        models.DeepLabV3Backbone(
            image_encoder=models.DMFormerBackbone(**backbone),
            spatial_pyramid_pooling_key="P5",
            low_level_feature_key="P2",
            upsampling_size=8,
            dilation_rates=[1, 2],
            projection_filters=8,
            image_shape=shape,
        ),
        num_classes=3,
    )


@pytest.mark.once_under_torch
@pytest.mark.slow(on=["jax"])  # compiles for minutes on a CPU
@pytest.mark.parametrize("tasks", [keras_cv_tasks, keras_hub_tasks])
def test_tasks_of_other_libraries(tasks, tmp_path):
    pytest.importorskip("tensorflow", reason="KerasCV and KerasHub need it on every backend")
    x = images(2, 64, 64, 3)
    for model in tasks():
        fused = fuse(randomized(model))
        assert_same(fused, model, x)
        assert not scales_and_offsets(fused)
        fused.save(tmp_path / "fused.keras")
        assert_same(keras.models.load_model(tmp_path / "fused.keras"), model, x)


@pytest.mark.once_under_torch
def test_composite_layer_of_unknown_size_is_refused():
    models = pytest.importorskip("keras_hub", reason="KerasHub is not installed").models
    model = models.DeepLabV3Backbone(
        image_encoder=models.DMFormerBackbone(SMALL["channels"], SMALL["depths"]),
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[1],
    )
    with pytest.raises(DMFormerError, match=r"spatial_pyramid_pooling.*fixed input size"):
        fuse(model)
