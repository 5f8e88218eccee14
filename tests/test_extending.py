"""Heads, mixers and subclasses from outside the package go the way of its own."""

import json

import keras
import numpy as np
import pytest
from helpers import TINIEST, array, images, randomize, shapes, tiny_backbone, tiny_classifier
from suites import TaskSuite

import dmformer_keras
from dmformer_keras import DMFormerBackbone, DMFormerClassifier, DMFormerError, SemanticFPN, fuse
from dmformer_keras.layers import DMFormerBlock
from dmformer_keras.segmenter import Segmenter
from dmformer_keras.task_table import register_task
from dmformer_keras.training import SegmentationRecipe, train

pytestmark = pytest.mark.once_under_torch

registered = keras.saving.register_keras_serializable(package="outside")


@registered
@register_task("segment", recipe_name="toy_head")
class ToyHead(Segmenter):
    """One convolution of P5."""

    paper = {"head_channels": 8, "normalization": "batch", "dropout": 0.0}  # noqa: RUF012

    @staticmethod
    def decode(build, pyramid, strides):
        return build.normalized(3, "toy")(pyramid["P5"])


@registered
class MeanMixer(keras.layers.Layer):
    """Means of 3x3 positions, times a learned factor of each channel."""

    def build(self, input_shape):
        self.factor = self.add_weight((input_shape[-1],), initializer="ones", name="factor")

    def call(self, inputs):
        return keras.ops.average_pool(inputs, 3, 1, "same") * self.factor

    def get_config(self):
        return super().get_config()


@registered
class MeanBlock(DMFormerBlock):
    def make_mixer(self, name, dtype, **arguments):
        return MeanMixer(name=name, dtype=dtype)


@registered
class MeanBackbone(DMFormerBackbone):
    block_class = MeanBlock


@registered
class NamedClassifier(DMFormerClassifier):
    """A classifier with an argument of its own."""

    head_arguments = (*DMFormerClassifier.head_arguments, "motto")

    def __init__(self, *args, motto="none", **kwargs):
        super().__init__(*args, **kwargs)
        self.motto = motto


class Unregistered(DMFormerClassifier):
    pass


def mean_backbone(**overrides):
    return MeanBackbone(**{**TINIEST, "input_shape": (64, 64, 3), **overrides})


def assert_same_outputs(found, expected, atol=1e-4):
    batch = images(2, 64, 64, 3)
    np.testing.assert_allclose(
        found.predict_on_batch(batch), array(expected(batch)), atol=atol, rtol=1e-3
    )


def exported(model, folder):
    """What a TFLite file of the model gives."""
    pytest.importorskip("ai_edge_litert")
    dmformer_keras.export.to_tflite(model, folder / "model.tflite", input_shape=(64, 64, 3))
    return dmformer_keras.load(folder / "model.tflite")


# ------------------------------------------------------------------------------------ a head


class TestToyHead(TaskSuite):
    cls = ToyHead


def test_a_head_from_outside_trains_is_saved_and_fused(tmp_path):
    pictures, masks, names = shapes(12, size=(64, 64))
    tiny_backbone(**TINIEST).save_to_preset(tmp_path / "start")
    recipe = SegmentationRecipe(epochs=1, batch_size=4, image_size=64, head="toy_head")
    run = tmp_path / "run"
    train(recipe, tmp_path / "start", (pictures, masks, names), run, verbose=0)

    model = dmformer_keras.load(run)
    assert type(model) is ToyHead
    assert (model.head_channels, model.class_names) == (8, names)
    assert dmformer_keras.segment(model, pictures[0]).shape == (64, 64)

    model.save(tmp_path / "model.keras")
    fused = fuse(model)
    fused.save(tmp_path / "fused.keras")
    for name in ("model.keras", "fused.keras"):
        assert_same_outputs(dmformer_keras.load(tmp_path / name), model)
    norms = [layer for layer in fused.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms == []


@pytest.mark.backend_independent  # here the converter is in this process, which knows the class
def test_a_head_from_outside_is_exported(tmp_path, unmeasured):
    model = randomize(ToyHead(tiny_backbone(**TINIEST), 3))
    assert_same_outputs(exported(model, tmp_path), model, atol=1e-3)


def test_keras_hub_reads_the_preset_of_a_head_from_outside(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    model = randomize(ToyHead(tiny_backbone(**TINIEST), 3))
    model.save_to_preset(tmp_path)
    loaded = keras_hub.models.ImageSegmenter.from_preset(str(tmp_path))
    assert loaded.head.name == "head"
    np.testing.assert_allclose(
        array(loaded(images(1, 64, 64, 3))), array(model(images(1, 64, 64, 3))), atol=1e-4
    )


# ----------------------------------------------------------------------------------- a mixer


def test_a_mixer_from_outside_trains_is_saved_and_fused(tmp_path):
    model = randomize(DMFormerClassifier(mean_backbone(layer_scale=0.1), 3))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(4, 64, 64, 3), np.array([0, 1, 2, 0]), epochs=1, verbose=0)

    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    for name in ("model.keras", "preset"):
        loaded = dmformer_keras.load(tmp_path / name)
        assert type(loaded.backbone) is MeanBackbone
        assert_same_outputs(loaded, model)

    fused = fuse(model)
    norms = [
        layer
        for layer in fused._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert norms == []
    assert_same_outputs(fused, model, atol=1e-3)
    fused.save(tmp_path / "fused.keras")
    assert_same_outputs(dmformer_keras.load(tmp_path / "fused.keras"), model, atol=1e-3)


@pytest.mark.backend_independent
def test_a_mixer_from_outside_is_exported(tmp_path, unmeasured):
    model = randomize(DMFormerClassifier(mean_backbone(layer_scale=0.1), 3))
    assert_same_outputs(exported(model, tmp_path), model, atol=1e-3)


def test_a_mixer_that_cannot_be_fused_is_refused():
    model = DMFormerClassifier(mean_backbone(input_shape=(None, None, 3)), 3)
    with pytest.raises(DMFormerError, match="cannot be taken apart"):
        fuse(model)


def test_a_block_keeps_what_it_was_made_with():
    block = MeanBlock(levels=((3, 1), (5, 2)), gate_reduction=2, use_gate=False)
    again = MeanBlock.from_config(block.get_config())
    assert again.get_config() == block.get_config()
    assert again.levels == ((3, 1), (5, 2))
    assert type(again.attention) is MeanMixer


# -------------------------------------------------------------------------------- subclasses


def test_a_backbone_of_another_class_comes_back_as_it(tmp_path):
    backbone = randomize(mean_backbone())
    backbone.save_to_preset(tmp_path)
    for cls in (MeanBackbone, DMFormerBackbone):
        loaded = cls.from_preset(tmp_path)
        assert type(loaded) is MeanBackbone
        assert_same_outputs(loaded, backbone)
    grey = DMFormerBackbone.from_preset(tmp_path, input_shape=(64, 64, 1))
    assert type(grey) is MeanBackbone


def test_a_config_that_is_no_json_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    backbone = tiny_backbone()
    config = backbone.get_config()
    monkeypatch.setattr(backbone, "get_config", lambda: {**config, "extra": object()})
    with pytest.raises(DMFormerError, match="get_config cannot be stored as JSON"):
        backbone.save_to_preset(tmp_path / "preset")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_backbone_of_a_class_that_is_not_known_is_refused(tmp_path):
    mean_backbone().save_to_preset(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("outside>MeanBackbone", "elsewhere>MeanBackbone"))
    with pytest.raises(DMFormerError, match="altered"):
        DMFormerBackbone.from_preset(tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    del metadata["files"]["config.json"]  # as if it had been saved so
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(DMFormerError, match="describes a 'elsewhere>MeanBackbone'"):
        DMFormerBackbone.from_preset(tmp_path)
    tiny_backbone().save_to_preset(tmp_path)
    # The other way round there is nothing to refuse: it takes what DMFormerBackbone wrote.
    assert type(DMFormerBackbone.from_preset(tmp_path)) is DMFormerBackbone


def test_a_classifier_of_another_class_comes_back_as_it_was(tmp_path):
    model = randomize(NamedClassifier(tiny_backbone(**TINIEST), 3, motto="hello"))
    model.save_to_preset(tmp_path)
    for load in (
        NamedClassifier.from_preset,
        DMFormerClassifier.from_preset,
        dmformer_keras.load,
    ):
        loaded = load(tmp_path)
        assert type(loaded) is NamedClassifier
        assert loaded.motto == "hello"
        assert_same_outputs(loaded, model)
    fine_tuned = DMFormerClassifier.from_preset(tmp_path, num_classes=7)
    assert fine_tuned.num_classes == 7
    model.save(tmp_path / "model.keras")
    fuse(model).save(tmp_path / "fused.keras")
    for name in ("model.keras", "fused.keras"):
        assert_same_outputs(dmformer_keras.load(tmp_path / name), model)


def test_a_head_is_never_replaced_silently(tmp_path):
    Unregistered(tiny_backbone(**TINIEST), 3).save_to_preset(tmp_path / "unregistered")
    SemanticFPN(tiny_backbone(**TINIEST), 3, head_channels=8).save_to_preset(tmp_path / "fpn")
    with pytest.raises(DMFormerError, match="holds a Unregistered, where a DMFormerClassifier"):
        DMFormerClassifier.from_preset(tmp_path / "unregistered")
    with pytest.raises(DMFormerError, match="holds a Unregistered"):
        dmformer_keras.load(tmp_path / "unregistered")
    assert Unregistered.from_preset(tmp_path / "unregistered").num_classes == 3
    with pytest.raises(DMFormerError, match=r"holds a SemanticFPN.* give num_classes"):
        DMFormerClassifier.from_preset(tmp_path / "fpn")
    # Asked for, a new head is put on.
    assert DMFormerClassifier.from_preset(tmp_path / "fpn", num_classes=2).num_classes == 2
    assert tiny_classifier(3).num_classes == 3
