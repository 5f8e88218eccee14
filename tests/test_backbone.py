import json

import keras
import numpy as np
import pytest
from helpers import TINIEST, array, compiled_for_a_step, features, images, randomize, tiny_backbone

from dmformer_keras import DMFormerBackbone, DMFormerError
from dmformer_keras.layers import DMFormerBlock


def pyramid(backbone, inputs):
    outputs = keras.Model(backbone.input, backbone.pyramid_outputs)(inputs, training=False)
    return {level: array(output) for level, output in outputs.items()}


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (97, 45)], ids=str)
def test_pyramid_has_the_promised_channels_and_strides(size):
    backbone = tiny_backbone(input_shape=(*size, 3))
    levels = pyramid(backbone, images(1, *size, 3))
    assert list(backbone.pyramid_outputs) == ["P2", "P3", "P4", "P5"]
    for level, info in backbone.feature_info.items():
        expected = tuple(-(-side // info["stride"]) for side in size)
        assert levels[level].shape == (1, *expected, info["channels"])


def test_p5_is_the_output_and_taking_the_pyramid_does_not_change_it():
    backbone = randomize(tiny_backbone())
    x = images(2, 64, 64, 3)
    before = array(backbone(x, training=False))
    np.testing.assert_array_equal(pyramid(backbone, x)["P5"], before)
    np.testing.assert_array_equal(array(backbone(x, training=False)), before)


def test_any_size_equals_a_fixed_size():
    anywhere = randomize(tiny_backbone(input_shape=(None, None, 3)))
    fixed = tiny_backbone(input_shape=(45, 64, 3))
    fixed.set_weights(anywhere.get_weights())
    x = images(1, 45, 64, 3)
    np.testing.assert_allclose(array(anywhere(x)), array(fixed(x)), atol=1e-5, rtol=1e-5)
    assert array(anywhere(images(1, 33, 70, 3))).shape == (1, 2, 3, 32)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_output_stride_keeps_the_weights_and_refines_the_grid(output_stride):
    coarse = randomize(tiny_backbone(use_gate=False))
    fine = tiny_backbone(use_gate=False, output_stride=output_stride)
    assert [w.path for w in fine.weights] == [w.path for w in coarse.weights]
    fine.set_weights(coarse.get_weights())
    x = images(1, 64, 64, 3)
    expected, found = pyramid(coarse, x), pyramid(fine, x)
    for level, info in fine.feature_info.items():
        assert found[level].shape[1] == 64 // info["stride"]
        # Dilation makes the fine network the coarse one at every step of its grid
        # (without the gate, whose pooling sees more positions).
        step = found[level].shape[1] // expected[level].shape[1]
        np.testing.assert_allclose(found[level][:, ::step, ::step], expected[level], atol=1e-4)
    assert fine.feature_info["P5"]["stride"] == output_stride == fine.output_stride


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_takes_any_number_of_input_channels(channels):
    backbone = tiny_backbone(input_shape=(40, 40, channels))
    assert array(backbone(images(1, 40, 40, channels))).shape == (1, 2, 2, 32)


def test_rescaling_takes_0_to_255_to_minus_1_to_1():
    with_rescaling = randomize(tiny_backbone())
    without = tiny_backbone(include_rescaling=False)
    without.set_weights(with_rescaling.get_weights())
    x = images(1, 64, 64, 3)
    np.testing.assert_allclose(
        array(with_rescaling(x)), array(without(x / 127.5 - 1)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.once_under_torch
def test_stochastic_depth_rises_linearly_to_the_last_block():
    backbone = tiny_backbone(stochastic_depth=0.4)
    rates = [layer.stochastic_depth for layer in backbone.layers if "block" in layer.name]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3, 0.4])


def test_training_is_random_only_through_stochastic_depth():
    keras.utils.set_random_seed(1)
    first = tiny_backbone(stochastic_depth=0.9)
    keras.utils.set_random_seed(1)
    second = tiny_backbone(stochastic_depth=0.9)
    x = images(4, 64, 64, 3)
    once = array(first(x, training=True))
    np.testing.assert_array_equal(once, array(second(x, training=True)))
    assert np.abs(once - array(first(x, training=True))).max() > 1e-6


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    ("stages", "expected"),
    [(False, ()), (True, (1, 2, 3, 4)), ((), ()), ([3, 1, 3], (1, 3)), ((np.int64(2),), (2,))],
    ids=str,
)
def test_gradient_checkpointing_is_for_the_stages_named(stages, expected):
    backbone = tiny_backbone(gradient_checkpointing=stages)
    chosen = {
        int(layer.name[len("stage")])
        for layer in backbone.layers
        if getattr(layer, "gradient_checkpointing", False)
    }
    assert chosen == set(expected)
    assert backbone.get_config()["gradient_checkpointing"] == expected


@pytest.mark.once_under_torch
def test_gradient_checkpointing_stays_in_files_and_leaves_presets(tmp_path):
    backbone = randomize(tiny_backbone(gradient_checkpointing=(1, 2)))
    backbone.save(tmp_path / "backbone.keras")
    backbone.save_to_preset(tmp_path / "preset")
    x = images(1, 64, 64, 3)
    kept = keras.models.load_model(tmp_path / "backbone.keras")
    plain = DMFormerBackbone.from_preset(tmp_path / "preset")
    again = DMFormerBackbone.from_preset(tmp_path / "preset", gradient_checkpointing=True)
    for other, stages in ((kept, (1, 2)), (plain, ()), (again, (1, 2, 3, 4))):
        assert other.get_config()["gradient_checkpointing"] == stages
        np.testing.assert_array_equal(array(other(x)), array(backbone(x)))


@pytest.mark.once_under_torch
def test_files_from_before_gradient_checkpointing_load():
    config = tiny_backbone().get_config()
    del config["gradient_checkpointing"]
    assert DMFormerBackbone.from_config(config).get_config()["gradient_checkpointing"] == ()
    layer = DMFormerBlock().get_config()
    del layer["gradient_checkpointing"]
    assert DMFormerBlock.from_config(layer).gradient_checkpointing is False


@pytest.mark.once_under_torch
def test_layer_scale_adds_two_weights_a_block():
    plain, scaled = tiny_backbone(), tiny_backbone(layer_scale=1e-5)
    assert len(scaled.weights) == len(plain.weights) + 2 * 5


def test_frozen_backbone_keeps_its_batch_statistics():
    backbone = tiny_backbone(**TINIEST)
    backbone.trainable = False
    model = keras.Sequential(
        [backbone, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    compiled_for_a_step(model, "sgd")
    before = [array(weight) for weight in backbone.weights]
    head = array(model.layers[-1].kernel) if model.layers[-1].built else None
    model.fit(images(8, 64, 64, 3), np.arange(8) % 3, epochs=1, verbose=0)
    for old, weight in zip(before, backbone.weights, strict=True):
        np.testing.assert_array_equal(old, array(weight), err_msg=weight.path)
    assert head is None or np.abs(array(model.layers[-1].kernel) - head).max() > 0


def test_training_changes_every_trainable_weight():
    backbone = tiny_backbone(layer_scale=0.5, **TINIEST)
    model = keras.Sequential(
        [backbone, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    compiled_for_a_step(model, keras.optimizers.Adam(1e-2))
    x, y = images(8, 64, 64, 3), np.arange(8) % 3
    before = [array(weight) for weight in backbone.weights]
    model.fit(x, y, epochs=2, verbose=0)
    for old, weight in zip(before, backbone.weights, strict=True):
        assert (old != array(weight)).any(), weight.path


def test_channels_first_equals_channels_last():
    if keras.config.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolution on the CPU")
    last = randomize(tiny_backbone())
    first = tiny_backbone(data_format="channels_first", input_shape=(3, 64, 64))
    first.set_weights(last.get_weights())
    x = images(1, 64, 64, 3)
    expected, found = pyramid(last, x), pyramid(first, x.transpose(0, 3, 1, 2))
    for level in expected:
        np.testing.assert_allclose(
            found[level].transpose(0, 2, 3, 1), expected[level], atol=1e-4, rtol=1e-4
        )


def test_keras_file_round_trip_gives_the_same_class_and_output(tmp_path):
    backbone = randomize(tiny_backbone(output_stride=16, layer_scale=0.1, levels=((3, 1), (5, 2))))
    backbone.save(tmp_path / "backbone.keras")
    again = keras.models.load_model(tmp_path / "backbone.keras")
    assert isinstance(again, DMFormerBackbone)
    assert again.pyramid_level_inputs == backbone.pyramid_level_inputs
    x = images(1, 64, 64, 3)
    np.testing.assert_array_equal(array(again(x)), array(backbone(x)))


@pytest.mark.once_under_torch
def test_config_is_exactly_the_constructors_arguments():
    backbone = tiny_backbone(dtype="mixed_bfloat16", name="eyes", trainable=False)
    again = DMFormerBackbone.from_config(backbone.get_config())
    assert again.get_config() == backbone.get_config()
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert not again.trainable


@pytest.mark.slow(on=["jax"])  # compiles for half a minute
def test_half_precision_outputs_are_finite_from_the_start():
    backbone = DMFormerBackbone(input_shape=(64, 64, 3), dtype="mixed_float16", depths=(1, 1, 9, 1))
    outputs = backbone(images(1, 64, 64, 3))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert np.isfinite(array(outputs)).all()


@pytest.mark.once_under_torch
def test_numpy_integers_are_integers():
    backbone = tiny_backbone(channels=np.array([8, 8, 8, 8]).tolist(), depths=[np.int64(1)] * 4)
    assert json.dumps(backbone.get_config())


@pytest.mark.once_under_torch
def test_default_shape_follows_the_data_format():
    assert DMFormerBackbone().input.shape == (None, None, None, 3)
    first = DMFormerBackbone(data_format="channels_first")
    assert first.input.shape == (None, 3, None, None)


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (8, 16, 24)}, "channels must be four positive integers"),
        ({"depths": (1, 1, 0, 1)}, "depths must be four positive integers"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32"),
        ({"input_shape": (16, 64, 3)}, "at least 32"),
        ({"input_shape": (64, 64)}, "input_shape must be"),
        ({"input_shape": (64, 64, None)}, "known number of channels"),
        ({"input_shape": (64.0, 64, 3)}, "a side of 64.0"),
        ({"levels": ((2, 1),)}, "levels must be"),
        ({"data_format": "last"}, "data_format must be"),
        ({"stochastic_depth": 1.0}, "stochastic_depth must be"),
        ({"mlp_ratio": "4"}, "mlp_ratio must be a number over 0"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio must be a number over 0"),
        ({"activation": "nope"}, "activation must be the name"),
        ({"activation": {"class_name": "Lambda"}}, "activation must be the name"),
        ({"layer_scale": "x"}, "layer_scale must be"),
        ({"gradient_checkpointing": (0, 1)}, "gradient_checkpointing must be stage numbers"),
        ({"gradient_checkpointing": (1, 5)}, "gradient_checkpointing must be stage numbers"),
        ({"gradient_checkpointing": (True,)}, "gradient_checkpointing must be stage numbers"),
        ({"gradient_checkpointing": 2}, "gradient_checkpointing must be stage numbers"),
        ({"gradient_checkpointing": "12"}, "gradient_checkpointing must be stage numbers"),
        ({"gradient_checkpointing": None}, "gradient_checkpointing must be stage numbers"),
        ({"use_gate": "no"}, "use_gate must be True or False"),
        ({"include_rescaling": 1}, "include_rescaling must be True or False"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(DMFormerError, match=message):
        tiny_backbone(**arguments)


def test_features_are_used_by_keras_functional_models():
    backbone = tiny_backbone()
    x = keras.Input((64, 64, 3))
    model = keras.Model(x, backbone(x))
    data = features(1, 64, 64, 3)
    np.testing.assert_allclose(array(model(data)), array(backbone(data)), atol=1e-5)


def colored(number, seed):
    """Noisy images whose class is their color."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 3
    colors = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[labels]
    noise = rng.normal(0, 50, (number, 32, 32, 3)) + rng.normal(0, 40, (number, 1, 1, 3))
    return (colors[:, None, None] + noise).clip(0, 255).astype("float32"), labels


@pytest.mark.skipif(keras.config.backend() != "torch", reason="its figures are of PyTorch's seeds")
def test_a_dense_layer_learns_faster_on_normalized_features():
    backbone = randomize(tiny_backbone(input_shape=(32, 32, 3)))
    # As training leaves them, some channels are far larger than others.
    scale = backbone.get_layer("stage4_downsample_norm").gamma
    scale.assign(scale * 10 ** np.random.default_rng(0).uniform(-1, 1, scale.shape))
    backbone.trainable = False

    def accuracy(features):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((32, 32, 3))
        model = keras.Model(inputs, keras.layers.Dense(3)(features(inputs)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
        model.fit(*colored(96, seed=0), epochs=3, batch_size=16, verbose=0)
        return model.evaluate(*colored(96, seed=1), verbose=0)[1]

    pool = keras.layers.GlobalAveragePooling2D()
    pooled = accuracy(lambda inputs: pool(backbone(inputs)))
    normalized = accuracy(backbone.pooled_features)
    assert normalized > max(0.6, pooled + 0.1)
