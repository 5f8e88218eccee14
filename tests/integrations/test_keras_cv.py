"""`keras_cv.models.DMFormerBackbone` and DMFormer presets in KerasCV's tasks."""

import keras
import numpy as np
import pytest

import dmformer_keras
from dmformer_keras import presets
from dmformer_keras.presets import finding

tf = pytest.importorskip("tensorflow", reason="KerasCV needs TensorFlow on every backend")
keras_cv = pytest.importorskip("keras_cv")
from keras_cv.src.models.backbones import backbone_presets  # noqa: E402
from keras_cv.src.models.segmentation.segformer import segformer_presets  # noqa: E402
from keras_cv.src.utils.preset_utils import save_to_preset  # noqa: E402
from keras_cv.src.utils.train import get_feature_extractor  # noqa: E402

from dmformer_keras.integrations import keras_cv as integration  # noqa: E402

TINY = {"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "levels": ((3, 1), (5, 2))}


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def tiny(**arguments):
    return keras_cv.models.DMFormerBackbone(**TINY, **arguments)


@pytest.mark.once_under_torch
def test_is_both_kinds_of_backbone():
    backbone = tiny()
    assert isinstance(backbone, dmformer_keras.DMFormerBackbone)
    assert isinstance(backbone, keras_cv.models.Backbone)


@pytest.mark.once_under_torch
def test_config_round_trips():
    backbone = tiny(stochastic_depth=0.1, input_shape=(64, 32, 3), name="mine", trainable=False)
    revived = keras_cv.models.DMFormerBackbone.from_config(backbone.get_config())
    assert revived.get_config() == backbone.get_config()


def test_keras_file_round_trips(tmp_path, images):
    backbone = tiny()
    backbone.save(tmp_path / "backbone.keras")
    restored = keras.models.load_model(tmp_path / "backbone.keras")
    assert type(restored) is keras_cv.models.DMFormerBackbone
    np.testing.assert_allclose(predict(restored, images), predict(backbone, images), atol=1e-6)


@pytest.mark.once_under_torch
@pytest.mark.parametrize("channels", [1, 4])
def test_pyramid_for_other_numbers_of_input_channels(channels):
    backbone = tiny(input_shape=(64, 32, channels))
    levels = backbone.pyramid_level_inputs
    extractor = get_feature_extractor(backbone, list(levels.values()), list(levels))
    outputs = extractor(np.ones((1, 64, 32, channels), "float32"))
    assert {level: tuple(output.shape) for level, output in outputs.items()} == {
        "P2": (1, 16, 8, 8),
        "P3": (1, 8, 4, 16),
        "P4": (1, 4, 2, 24),
        "P5": (1, 2, 1, 32),
    }


@pytest.mark.once_under_torch
def test_presets_by_name():
    cls = keras_cv.models.DMFormerBackbone
    assert cls.presets == dmformer_keras.DMFormerBackbone.presets
    assert "dmformer_s" in cls.presets_without_weights
    assert cls.presets_with_weights.keys() | cls.presets_without_weights.keys() == set(cls.presets)
    backbone = cls.from_preset("dmformer_s", **TINY, input_shape=(64, 64, 1))
    assert type(backbone) is cls
    assert backbone.input_shape == (None, 64, 64, 1)
    assert backbone.get_config()["stochastic_depth"] == 0.1


@pytest.mark.once_under_torch
def test_preset_errors():
    cls = keras_cv.models.DMFormerBackbone
    with pytest.raises(ValueError, match="did you mean 'dmformer_n'"):
        cls.from_preset("dmformer_nn")
    with pytest.raises(ValueError, match="has no weights"):
        cls.from_preset("dmformer_n", load_weights=True)


@pytest.mark.once_under_torch
def test_our_preset_folder_is_read_by_kerascv(tmp_path, images):
    plain = dmformer_keras.DMFormerBackbone(**TINY)
    plain.save_to_preset(tmp_path)
    backbone = keras_cv.models.DMFormerBackbone.from_preset(tmp_path)
    assert type(backbone) is keras_cv.models.DMFormerBackbone
    np.testing.assert_allclose(predict(backbone, images), predict(plain, images), atol=1e-6)


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    "save",
    [save_to_preset, lambda backbone, folder: backbone.save_to_preset(folder)],
    ids=["by KerasCV", "by us"],
)
def test_kerascv_preset_folder_is_read_by_us_and_by_its_tasks(tmp_path, images, save):
    original = tiny()
    save(original, str(tmp_path))
    backbone = dmformer_keras.DMFormerBackbone.from_preset(tmp_path)
    assert type(backbone) is dmformer_keras.DMFormerBackbone
    np.testing.assert_allclose(predict(backbone, images), predict(original, images), atol=1e-6)
    task = keras_cv.models.ImageClassifier.from_preset(str(tmp_path), num_classes=2)
    np.testing.assert_allclose(predict(task.backbone, images), predict(original, images), atol=1e-6)


@pytest.mark.once_under_torch
@pytest.mark.parametrize("by", ["us", "KerasHub"])
def test_tasks_read_the_folders_of_the_others(by, tmp_path, images):
    if by == "us":
        original = dmformer_keras.DMFormerClassifier(dmformer_keras.DMFormerBackbone(**TINY), 3)
    else:
        hub = pytest.importorskip("keras_hub").models
        original = hub.DMFormerImageClassifier(hub.DMFormerBackbone(**TINY), 3)
    original.save_to_preset(str(tmp_path))
    task = keras_cv.models.ImageClassifier.from_preset(str(tmp_path), num_classes=2)
    assert type(task.backbone) is keras_cv.models.DMFormerBackbone
    np.testing.assert_allclose(
        predict(task.backbone, images), predict(original.backbone, images), atol=1e-6
    )


@pytest.mark.once_under_torch
def test_tasks_know_the_architectures_by_name(monkeypatch):
    small = {"metadata": {"description": "small"}, "config": TINY}
    monkeypatch.setitem(presets.ARCHITECTURES, "dmformer_small", small)
    monkeypatch.setitem(backbone_presets.backbone_presets, "dmformer_small", None)
    monkeypatch.setitem(segformer_presets.presets, "dmformer_small", None)
    integration._add_task_presets()

    assert keras_cv.models.ImageClassifier.presets.keys() >= presets.ARCHITECTURES.keys()
    classifier = keras_cv.models.ImageClassifier.from_preset("dmformer_small", num_classes=3)
    assert classifier.input_shape == (None, None, None, 3)
    assert classifier.backbone.get_config()["channels"] == (8, 16, 24, 32)
    segformer = keras_cv.models.SegFormer.from_preset("dmformer_small", num_classes=3)
    assert segformer.output_shape == (None, 224, 224, 3)


@pytest.mark.once_under_torch
def test_tasks_load_the_weights_of_shipped_presets(tmp_path, monkeypatch, images):
    shipped = dmformer_keras.DMFormerBackbone(**TINY)
    shipped.save_to_preset(tmp_path / "dmformer_trained")
    monkeypatch.setattr(finding, "weights_folder", lambda: tmp_path)
    for table in (
        backbone_presets.backbone_presets,
        backbone_presets.backbone_presets_with_weights,
        segformer_presets.presets,
        segformer_presets.presets_with_weights,
    ):
        monkeypatch.setitem(table, "dmformer_trained", None)
    integration._add_task_presets()

    assert "dmformer_trained" in keras_cv.models.ImageClassifier.presets_with_weights
    task = keras_cv.models.ImageClassifier.from_preset("dmformer_trained", num_classes=3)
    np.testing.assert_allclose(predict(task.backbone, images), predict(shipped, images), atol=1e-6)


@pytest.mark.slow(on=["jax"])  # compiles for minutes on a CPU
def test_fit_changes_every_weight(images):
    keras.utils.set_random_seed(0)
    # gate_reduction=1: two hidden ReLU units may both be dead, eight are not.
    backbone = tiny(gate_reduction=1, layer_scale=0.5, input_shape=(64, 64, 3))
    model = keras_cv.models.ImageClassifier(backbone, num_classes=2)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        run_eagerly=keras.config.backend() == "tensorflow",  # which traces for ten seconds
    )
    before = [keras.ops.convert_to_numpy(variable) for variable in model.weights]
    model.fit(tf.data.Dataset.from_tensors((images, [0, 1])).repeat(2), verbose=0)
    unchanged = [
        variable.path
        for variable, old in zip(model.weights, before, strict=True)
        if np.array_equal(keras.ops.convert_to_numpy(variable), old)
    ]
    assert unchanged == []
