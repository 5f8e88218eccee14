"""Every weight is in exactly one expected group, and trains as its group says."""

import keras
import numpy as np
import pytest
from helpers import TINIEST, array, run_python, tiny_classifier

from dmformer_keras import DMFormerBackbone, DMFormerClassifier, DMFormerError, SemanticFPN, UPerNet
from dmformer_keras.training import ParameterGroup, parameter_groups, with_parameter_groups

OPTIMIZERS = [keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.Lion]


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    ("task", "variant"),
    [*((DMFormerClassifier, name) for name in "ntsbl"), (SemanticFPN, "n"), (UPerNet, "n")],
)
def test_every_weight_is_in_one_group(variant, task):
    backbone = DMFormerBackbone.from_preset(f"dmformer_{variant}", input_shape=(64, 64, 3))
    arguments = {} if task is DMFormerClassifier else {"head_channels": 8}
    model = task(backbone, 4, **arguments)
    head = {id(weight) for weight in model.head.trainable_variables}
    layers = sum(backbone.get_config()["depths"]) + 2
    for layer_decay, expected in ((1.0, [1.0]), (0.8, [0.8**n for n in reversed(range(layers))])):
        groups = parameter_groups(model, layer_decay)
        grouped = [id(weight) for group in groups for weight in group.weights]
        assert sorted(grouped) == sorted(id(weight) for weight in model.trainable_variables)
        for group in groups:
            # What multiplies features of other channels or pixels has two axes or four; what is
            # added to a channel or multiplies it has one.
            assert {weight.ndim > 1 for weight in group.weights} == {group.weight_decay}
            in_head = {id(weight) in head for weight in group.weights}
            assert layer_decay == 1 or in_head == {group.learning_rate_factor == 1}
        factors = [group.learning_rate_factor for group in groups]
        assert sorted(set(factors)) == pytest.approx(expected)
        assert factors == sorted(factors)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_any_optimizer_trains_each_group_in_its_own_way(kind):
    model = tiny_classifier(layer_scale=0.5, **TINIEST)
    groups = parameter_groups(model, 0.5)
    rng = np.random.default_rng(0)
    weights = model.trainable_variables
    gradients = {id(weight): rng.normal(size=weight.shape) for weight in weights}
    before = {id(weight): array(weight) for weight in weights}

    def after(optimizer, weights):
        for weight in weights:
            weight.assign(before[id(weight)])
        optimizer.build(weights)
        own = [keras.ops.convert_to_tensor(gradients[id(weight)], "float32") for weight in weights]
        optimizer.apply(own)
        return {id(weight): array(weight) for weight in weights}

    optimizer = with_parameter_groups(kind)(0.01, weight_decay=0.3)
    optimizer.set_groups(groups)
    found = after(optimizer, weights)
    for group in groups:
        # Keras's own, with the rate and the decay of the group.
        own = kind(
            0.01 * group.learning_rate_factor, weight_decay=0.3 if group.weight_decay else None
        )
        expected = after(own, list(group.weights))
        for weight in group.weights:
            np.testing.assert_allclose(found[id(weight)], expected[id(weight)], atol=1e-6)
            assert np.abs(found[id(weight)] - before[id(weight)]).max() > 0


@pytest.mark.parametrize("built", [True, False])
def test_groups_are_kept_in_a_file(built, tmp_path):
    model = tiny_classifier(**TINIEST)
    optimizer = with_parameter_groups(keras.optimizers.SGD)(0.1, weight_decay=0.5)
    optimizer.set_groups(parameter_groups(model, 0.5))
    model.compile(optimizer, "mse")
    if built:
        optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=weight.shape) for weight in model.trainable_variables]
    for one in (model, again):
        one.optimizer.build(one.trainable_variables)
        one.optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in gradients])
    for weight, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_allclose(array(other), array(weight), atol=1e-7)
    assert again.optimizer.get_config()["rules"] == model.optimizer.get_config()["rules"]
    assert len({tuple(rule[1:]) for rule in again.optimizer.get_config()["rules"]}) > 4


@pytest.mark.once_under_torch
def test_a_file_of_a_partly_frozen_model_is_loaded(tmp_path):
    model = tiny_classifier()
    model.backbone.get_layer("stem1_conv").trainable = False
    optimizer = with_parameter_groups(keras.optimizers.SGD)(0.1, weight_decay=0.5)
    optimizer.set_groups(parameter_groups(model, 0.5))
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    # Keras does not keep what was frozen.
    with pytest.warns(UserWarning, match="no group for 1 weights, 'stem1_conv/kernel' first"):
        optimizer.build(again.trainable_variables)
    for weight, other in zip(again.trainable_variables[1:], model.trainable_variables, strict=True):
        assert optimizer._rule(weight) == model.optimizer._rule(other)


@pytest.mark.once_under_torch
def test_a_file_of_a_frozen_model_is_loaded(tmp_path):
    model = tiny_classifier()
    optimizer = with_parameter_groups(keras.optimizers.SGD)(0.1)
    optimizer.set_groups(parameter_groups(model, 0.5))
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.trainable = False
    model.save(tmp_path / "model.keras")
    assert not keras.models.load_model(tmp_path / "model.keras").trainable_variables


@pytest.mark.once_under_torch
def test_kernels_of_other_layers_decay():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.SeparableConv2D(4, 3), keras.layers.Flatten(),
         keras.layers.Reshape((6, 24)), keras.layers.LSTM(2)]
    )  # fmt: skip
    groups = {group.weight_decay: len(group.weights) for group in parameter_groups(model)}
    assert groups == {True: 4, False: 2}


def test_weights_without_a_group_are_trained_as_keras_would():
    weights = [keras.Variable([1.0], name=name) for name in ("kernel", "bias")]
    optimizer = with_parameter_groups(keras.optimizers.SGD)(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply([keras.ops.zeros(1)] * 2, weights)
    assert [float(array(weight)[0]) for weight in weights] == pytest.approx([0.95, 1.0])


@pytest.mark.once_under_torch
def test_what_cannot_be_grouped_is_refused():
    model = tiny_classifier()
    with pytest.raises(DMFormerError, match="rules of its own"):
        with_parameter_groups(keras.optimizers.Muon)
    with pytest.raises(DMFormerError, match="layer_decay"):
        parameter_groups(model, 1.5)
    weight = model.trainable_variables[0]
    optimizer = with_parameter_groups(keras.optimizers.SGD)(0.1)
    with pytest.raises(DMFormerError, match="in two groups"):
        optimizer.set_groups([ParameterGroup(0, True, 1.0, (weight, weight))])
    with pytest.raises(DMFormerError, match="takes what parameter_groups returns"):
        optimizer.set_groups([weight])
    with pytest.raises(DMFormerError, match="must be positive"):
        optimizer.set_groups([ParameterGroup(0, True, -1.0, (weight,))])
    for kind in ("adam", keras.optimizers.SGD(), keras.layers.Layer):
        with pytest.raises(DMFormerError, match="takes the class of an optimizer"):
            with_parameter_groups(kind)
    for name in ("LossScaleOptimizer", "MultiOptimizer"):
        if hasattr(keras.optimizers, name):
            with pytest.raises(DMFormerError, match="around an optimizer with groups"):
                with_parameter_groups(getattr(keras.optimizers, name))
    with pytest.raises(DMFormerError, match="layer_decay"):
        parameter_groups(model, "0.5")
    optimizer.set_groups(parameter_groups(model))
    with pytest.raises(DMFormerError, match="of other weights than the model's"):
        optimizer.build(tiny_classifier().trainable_variables)


@pytest.mark.once_under_torch
def test_a_file_is_loaded_where_only_the_package_is_imported(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(inputs))
    optimizer = with_parameter_groups(keras.optimizers.SGD)(0.5, weight_decay=0.1)
    optimizer.set_groups(parameter_groups(model))
    model.compile(optimizer, "mse")
    model.save(tmp_path / "model.keras")
    told = run_python(
        "import keras, dmformer_keras\n"
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r})\n"
        "print(type(model.optimizer).__name__, model.optimizer.get_config()['rules'])"
    )
    rules = [["last/kernel", 1.0, True], ["last/bias", 1.0, False]]
    assert told.strip() == f"GroupedSGD {rules}"
