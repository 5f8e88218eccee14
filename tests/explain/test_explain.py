"""Explanations say of a model what can be checked by other means."""

import keras
import numpy as np
import pytest
from helpers import array, tiny_backbone, tiny_classifier

import dmformer_keras
from dmformer_keras import DMFormerError, SemanticFPN
from dmformer_keras.explain import (
    effective_receptive_field,
    gate_values,
    grad_cam,
    level_activations,
)
from dmformer_keras.explain.inside import blocks_of, gradient, outputs_of


def random_images(model, number=2):
    shape = (number, *model.input.shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


@pytest.fixture(autouse=True)
def same_weights():
    keras.utils.set_random_seed(0)


def seen_classes(model, image):
    """The classes that some place speaks for: random weights may have none."""
    found = [index for index in range(5) if grad_cam(model, image, index).heatmap.max() > 0]
    assert found
    return found


def test_a_gradient_is_the_slope():
    value = np.array([1.0, 2.0, 3.0], "float32")
    found = gradient(lambda x: keras.ops.sum(x**3), value)
    np.testing.assert_allclose(found, 3 * value**2, rtol=1e-5)


def test_grad_cam_is_its_formula():
    """Of a linear head on pooled features, the gradient is known: a row of the head's kernel."""
    model = tiny_classifier()
    image = random_images(model)[0]
    last = list(blocks_of(model).values())[-1]
    logits, seen = outputs_of(model, {"last": last}, image[None])
    norm, _, _, dense = model.head.layers
    scale = array(norm.gamma) / np.sqrt(array(norm.moving_variance) + norm.epsilon)
    for index in seen_classes(model, image):
        found = grad_cam(model, image, index)
        weights = scale * array(dense.kernel)[:, index]
        expected = np.maximum((array(seen["last"])[0] * weights).sum(-1), 0)
        expected /= expected.max()
        assert found.class_index == index
        assert found.score == pytest.approx(float(array(logits)[0, index]), abs=1e-5)
        assert found.heatmap.shape == image.shape[:2]
        # Enlarged, the heat map has its greatest value where the small one has.
        places = [np.unravel_index(part.argmax(), part.shape) for part in (found.heatmap, expected)]
        scaled = [(at + 0.5) * old / new for at, old, new in zip(
            places[0], expected.shape, found.heatmap.shape, strict=True)]  # fmt: skip
        np.testing.assert_allclose(scaled, np.array(places[1]) + 0.5, atol=0.51)
    likeliest = grad_cam(model, image)
    assert likeliest.class_index == array(logits)[0].argmax()


@pytest.mark.once_under_torch
def test_a_nested_model_is_explained_as_the_model_itself():
    model = tiny_classifier()
    nested = keras.Sequential([model, keras.layers.Activation("linear")])
    image = random_images(model)[0]
    index = seen_classes(model, image)[0]
    for layer in (None, "stage2_block1"):
        one, other = (grad_cam(each, image, index, layer) for each in (model, nested))
        np.testing.assert_allclose(one.heatmap, other.heatmap, atol=1e-5)
    assert list(gate_values(nested, image[None])) == list(gate_values(model, image[None]))


@pytest.mark.once_under_torch
def test_a_segmenter_is_explained_by_the_pixels_of_the_class():
    model = SemanticFPN(tiny_backbone(input_shape=(64, 96, 3)), 3, head_channels=8)
    image = random_images(model)[0]
    logits = array(model(image[None].astype("float32")))[0]
    mask = logits.argmax(-1)
    found = grad_cam(model, image)
    assert found.class_index == np.bincount(mask.ravel()).argmax()
    of_class = logits[mask == found.class_index][:, found.class_index]
    assert found.score == pytest.approx(float(of_class.mean()), abs=1e-4)
    assert found.heatmap.shape == (64, 96)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow has no such convolutions on a CPU"
)
@pytest.mark.parametrize(
    "segments", [False, pytest.param(True, marks=pytest.mark.once_under_torch)]
)
def test_channels_first_is_explained_alike(segments, tmp_path):
    def model_of(**overrides):
        if segments:
            return SemanticFPN.from_preset(tmp_path, **overrides)
        return dmformer_keras.DMFormerClassifier.from_preset(tmp_path, **overrides)

    backbone = tiny_backbone(input_shape=(64, 96, 3))
    model = SemanticFPN(backbone, 5, head_channels=8) if segments else None
    (model or dmformer_keras.DMFormerClassifier(backbone, 5)).save_to_preset(tmp_path)
    last, first = model_of(), model_of(data_format="channels_first")
    image = random_images(last)[0]
    index = seen_classes(last, image)[0]
    for nested, class_index in ((first, index), (keras.Sequential([first]), None)):
        expected = grad_cam(last, image, class_index)
        found = grad_cam(nested, image.transpose(2, 0, 1), class_index)
        np.testing.assert_allclose(found.heatmap, expected.heatmap, atol=1e-4)
        assert found.class_index == expected.class_index
        assert found.score == pytest.approx(expected.score, abs=1e-4)
    with pytest.raises(DMFormerError, match="from 0 to 4"):
        grad_cam(first, image.transpose(2, 0, 1), 50)


@pytest.mark.once_under_torch
def test_a_layer_may_be_given():
    model = tiny_classifier()
    image = random_images(model)[0]
    layer = blocks_of(model)["stage3_block1"]
    index = seen_classes(model, image)[0]
    by_layer, by_name = (grad_cam(model, image, index, one) for one in (layer, "stage3_block1"))
    np.testing.assert_array_equal(by_layer.heatmap, by_name.heatmap)
    assert np.abs(by_layer.heatmap - grad_cam(model, image, index).heatmap).max() > 0


@pytest.mark.once_under_torch
def test_nothing_is_changed_by_looking():
    model = tiny_classifier()
    images = random_images(model).astype("float32")
    before = array(model(images))
    grad_cam(model, images[0])
    level_activations(model, images)
    np.testing.assert_array_equal(array(model(images)), before)
    assert not any("call" in vars(block) for block in blocks_of(model).values())


@pytest.mark.once_under_torch
def test_the_gates_are_those_of_the_layers():
    model = tiny_classifier()
    images = random_images(model)
    name, block = list(blocks_of(model).items())[2]
    _, seen = outputs_of(model, {"normed": block.attention_norm}, images)
    found = gate_values(model, images)
    expected = array(block.attention.gate(seen["normed"]))[:, 0, 0]
    np.testing.assert_allclose(found[name], expected, atol=1e-6)
    assert list(found) == list(blocks_of(model))
    with pytest.raises(DMFormerError, match="use_gate"):
        gate_values(tiny_classifier(use_gate=False), images)


@pytest.mark.once_under_torch
def test_the_levels_are_what_the_norm_and_relu_let_through_fused_or_not():
    model = tiny_classifier()
    images = random_images(model)
    found = level_activations(model, images)
    name, block = list(blocks_of(model).items())[1]
    _, seen = outputs_of(model, {"norm": block.attention.norm}, images)
    values = np.maximum(array(seen["norm"]), 0)
    channels = values.shape[-1] // 3
    for level in range(3):
        expected = values[..., level * channels : (level + 1) * channels].mean(-1)
        np.testing.assert_allclose(found[name][..., level], expected, atol=1e-5)
    fused = level_activations(dmformer_keras.fuse(model), images)
    assert list(fused) == list(found)
    for name, values in found.items():
        np.testing.assert_allclose(fused[name], values, atol=1e-3, rtol=1e-2)


def test_the_receptive_field_ends_where_no_convolution_reaches():
    # Without a gate, whose mean sees everything.
    model = tiny_classifier(input_shape=(96, 96, 3), use_gate=False, levels=((3, 1),))
    images = random_images(model, 1)
    field = effective_receptive_field(model, images, "stage1_block1")
    assert field.sum() == pytest.approx(1, abs=1e-4)
    # Stride 4 and 3x3 at 1/4 of the size: 12 pixels about the middle, and what the stem sees.
    assert field[:24].sum() == field[:, :24].sum() == 0
    assert field[40:60, 40:60].sum() > 0.5
    gated = tiny_classifier(input_shape=(96, 96, 3), levels=((3, 1),))
    assert effective_receptive_field(gated, images, "stage1_block1")[:24].sum() > 0
    deep = effective_receptive_field(model, images)
    assert (deep > 0).sum() > (field > 0).sum()


@pytest.mark.once_under_torch
def test_what_cannot_be_explained_is_refused():
    model = tiny_classifier()
    image = random_images(model)[0]
    with pytest.raises(DMFormerError, match="from 0 to"):
        grad_cam(model, image, class_index=99)
    with pytest.raises(DMFormerError, match="choose one of stage1_block1"):
        grad_cam(model, image, layer="stage9")
    with pytest.raises(DMFormerError, match="choose one of stage1_block1"):
        grad_cam(model, image, layer=5)
    with pytest.raises(DMFormerError, match="does not run the layer 'other'"):
        grad_cam(model, image, layer=keras.layers.Dense(3, name="other"))
    with pytest.raises(DMFormerError, match="gives no map of features"):
        grad_cam(model, image, layer=model.head.layers[-1])
    with pytest.raises(DMFormerError, match="Images must be"):
        grad_cam(model, image[:20])
    assert grad_cam(model, image.tolist()).heatmap.shape == image.shape[:2]
    left, right = tiny_backbone(), tiny_backbone()
    two = keras.Model([left.input], [left.output, right(left.input)])
    with pytest.raises(DMFormerError, match="several DMFormer backbones"):
        gate_values(two, image[None])
    with pytest.raises(DMFormerError, match="classes"):
        grad_cam(keras.Sequential([model, keras.layers.Reshape((-1, 1))]), image)
    with pytest.raises(DMFormerError, match="no DMFormer blocks"):
        grad_cam(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]),
                 np.zeros((8, 8, 3)))  # fmt: skip


@pytest.mark.once_under_torch
def test_without_the_gates_a_field_is_that_of_the_convolutions():
    model = tiny_classifier(input_shape=(96, 96, 3), levels=((3, 1),))
    images = random_images(model, 1)
    field = effective_receptive_field(model, images, "stage1_block1", through_gates=False)
    assert field[:24].sum() == field[:, :24].sum() == 0
    assert field.sum() == pytest.approx(1, abs=1e-4)


def test_a_receptive_field_takes_the_images_one_by_one(monkeypatch):
    model = tiny_classifier()
    images = random_images(model, 3)
    calls = []

    def recorded(function, value):
        calls.append((function, len(value)))
        return gradient(function, value)

    monkeypatch.setattr("dmformer_keras.explain.attention.gradient", recorded)
    found = effective_receptive_field(model, images, "stage2_block1")
    assert [number for _, number in calls] == [1, 1, 1]
    at_once = np.abs(gradient(calls[0][0], images)).sum((0, 3))
    np.testing.assert_allclose(found, at_once / at_once.sum(), rtol=1e-3, atol=1e-7)
