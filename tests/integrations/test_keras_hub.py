"""`keras_hub.models.DMFormerBackbone`, held to KerasHub's own tests of a backbone."""

import json

import keras
import numpy as np
import pytest

import dmformer_keras

pytest.importorskip("tensorflow", reason="KerasHub needs TensorFlow on every backend")
keras_hub = pytest.importorskip("keras_hub")
pytest.importorskip("grain", reason="KerasHub's TestCase imports grain")
from keras_hub.src.tests import test_case  # noqa: E402

TINY = {"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}


class TestDMFormerBackbone(test_case.TestCase):
    test_session = None  # TensorFlow's helper, which only looks like a test

    def setUp(self):
        super().setUp()
        self.arguments = {
            **TINY,
            "levels": ((3, 1), (5, 2)),
            "stochastic_depth": 0.1,
            "layer_scale": 1e-2,
            "image_shape": (64, 64, 3),
        }
        # KerasHub transposes the images with keras.ops: a tensor, not numpy.
        self.images = keras.ops.ones((2, 64, 64, 3))

    @pytest.mark.slow(on=["jax"])  # compiles for a minute on a CPU
    def test_vision_backbone(self):
        self.run_vision_backbone_test(
            cls=keras_hub.models.DMFormerBackbone,
            init_kwargs=self.arguments,
            input_data=self.images,
            expected_output_shape=(2, 2, 2, 32),
            expected_pyramid_output_keys=["P2", "P3", "P4", "P5"],
            expected_pyramid_image_sizes=[(16, 16), (8, 8), (4, 4), (2, 2)],
        )

    def test_backbone_of_any_size(self):
        self.run_backbone_test(
            cls=keras_hub.models.DMFormerBackbone,
            init_kwargs={**TINY, "output_stride": 16, "image_shape": (None, None, 4)},
            input_data=keras.ops.ones((2, 32, 48, 4)),
            expected_output_shape=(2, 2, 3, 32),
            run_mixed_precision_check=False,  # they ask nothing of the size
            run_quantization_check=False,
        )

    def test_saving(self):
        self.run_model_saving_test(
            cls=keras_hub.models.DMFormerBackbone,
            init_kwargs=self.arguments,
            input_data=self.images,
        )


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


@pytest.mark.once_under_torch
def test_is_both_kinds_of_backbone():
    backbone = keras_hub.models.DMFormerBackbone(**TINY)
    assert isinstance(backbone, dmformer_keras.DMFormerBackbone)
    assert isinstance(backbone, keras_hub.models.FeaturePyramidBackbone)
    assert backbone.image_shape == (None, None, 3)


@pytest.mark.once_under_torch
def test_config_speaks_kerashubs_language_and_round_trips():
    backbone = keras_hub.models.DMFormerBackbone(**TINY, image_shape=(64, 32, 1), name="mine")
    config = json.loads(json.dumps(backbone.get_config()))
    assert "input_shape" not in config
    revived = keras_hub.models.DMFormerBackbone.from_config(config)
    assert revived.get_config() == backbone.get_config()
    assert revived.input_shape == (None, 64, 32, 1)


@pytest.mark.once_under_torch
def test_preset_of_our_class_is_read_by_kerashub(tmp_path, images):
    plain = dmformer_keras.DMFormerBackbone(**TINY, input_shape=(64, 64, 3))
    plain.save_to_preset(tmp_path)
    inferred = keras_hub.models.Backbone.from_preset(str(tmp_path))
    assert type(inferred) is keras_hub.models.DMFormerBackbone
    assert inferred.image_shape == (64, 64, 3)
    np.testing.assert_allclose(predict(inferred, images), predict(plain, images), atol=1e-6)


@pytest.mark.once_under_torch
def test_preset_of_kerashub_is_read_by_our_class(tmp_path, images):
    theirs = keras_hub.models.DMFormerBackbone(**TINY, image_shape=(64, 64, 3))
    theirs.save_to_preset(str(tmp_path), max_shard_size=5)
    for cls in (dmformer_keras.DMFormerBackbone, keras_hub.models.DMFormerBackbone):
        backbone = cls.from_preset(tmp_path)
        assert type(backbone) is cls
        assert backbone.input_shape == (None, 64, 64, 3)
        np.testing.assert_allclose(predict(backbone, images), predict(theirs, images), atol=1e-6)


@pytest.mark.once_under_torch
def test_saving_leaves_the_files_of_a_kerashub_task(tmp_path):
    (tmp_path / "task.json").write_text("{}")
    keras_hub.models.DMFormerBackbone(**TINY).save_to_preset(str(tmp_path))
    assert (tmp_path / "task.json").read_text() == "{}"


@pytest.mark.once_under_torch
def test_overrides_by_either_name():
    cls = keras_hub.models.DMFormerBackbone
    for name in ("image_shape", "input_shape"):
        backbone = cls.from_preset("dmformer_n", **TINY, **{name: (64, 32, 1)})
        assert backbone.image_shape == (64, 32, 1)


@pytest.mark.once_under_torch
def test_importing_kerashub_changes_nothing_for_our_class(tmp_path, images):
    plain = dmformer_keras.DMFormerBackbone(**TINY, input_shape=(64, 64, 3))
    plain.save(tmp_path / "plain.keras")
    restored = keras.models.load_model(tmp_path / "plain.keras")
    assert type(restored) is dmformer_keras.DMFormerBackbone
    np.testing.assert_allclose(predict(restored, images), predict(plain, images), atol=1e-6)


@pytest.mark.once_under_torch
def test_unknown_preset_is_a_stated_failure():
    with pytest.raises(dmformer_keras.DMFormerError, match="did you mean 'dmformer_s'"):
        keras_hub.models.DMFormerBackbone.from_preset("dmformer_ss")
