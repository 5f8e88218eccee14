"""What must hold of every model with a head, and of every variant: a test class inherits it.

```python
class TestMyHead(TaskSuite):
    cls = MyHead
    arguments = {"head_channels": 8}
```
"""

import functools
from typing import ClassVar

import keras
import numpy as np
import pytest
from helpers import TINIEST, array, compiled_for_a_step, images, randomize, tiny_backbone

from dmformer_keras import DMFormerError, fuse, load
from dmformer_keras.training import is_segmenter

LEVELS = ("P2", "P3", "P4", "P5")
CLASSES = list("abcde")

needs_channels_first = pytest.mark.skipif(
    keras.config.backend() == "tensorflow",
    reason="TensorFlow has no channels_first convolution on the CPU",
)


def difference(one, other):
    """The largest difference of two tensors, over the largest value."""
    one, other = array(one), array(other)
    assert one.shape == other.shape
    return np.abs(one - other).max() / np.abs(other).max()


def norms_of(model):
    return [layer for layer in model._flatten_layers() if "Norm" in type(layer).__name__]


def called(model, inputs):
    return model(inputs, training=False)


@functools.cache
def _shared(suite):
    return suite().make()


class TaskSuite:
    """A class of models with a head: `cls`, with `arguments` that make it small.

    `named` is what says something about the classes, and `fusable` what makes BatchNorm the
    head's only norm.
    """

    cls: ClassVar[type]
    arguments: ClassVar[dict] = {}
    named: ClassVar[dict] = {"class_names": CLASSES}
    fusable: ClassVar[dict] = {}

    def make(self, head=None, **backbone):
        """A model with random weights; `head` and `backbone` are arguments of these."""
        backbone = tiny_backbone(**{**TINIEST, **backbone})
        head = self.named if head is None else head
        model = self.cls(backbone, **{"num_classes": 5, **self.arguments, **head})
        return randomize(model)

    @pytest.fixture
    def model(self):
        """One for all tests, none of which changes it."""
        return _shared(type(self))

    def test_outputs_have_the_shape_that_the_model_states(self, model):
        outputs = array(called(model, images(2, 64, 64, 3)))
        assert outputs.shape == (2, *model.output.shape[1:])
        assert outputs.shape[-1] == model.num_classes == 5
        assert np.isfinite(outputs).all()

    def test_a_model_of_any_size_is_the_model_of_each_size(self):
        anywhere = self.make(input_shape=(None, None, 3))
        fixed = self.make(input_shape=(45, 70, 3))
        fixed.set_weights(anywhere.get_weights())
        x = images(1, 45, 70, 3)
        assert difference(called(anywhere, x), called(fixed, x)) < 1e-5

    @pytest.mark.parametrize("channels", [1, 4])
    def test_any_number_of_input_channels_is_taken(self, model, channels):
        other = self.make(input_shape=(64, 64, channels))
        assert called(other, images(1, 64, 64, channels)).shape == (1, *model.output.shape[1:])

    @pytest.mark.parametrize("output_stride", [8, 16])
    def test_output_strides_keep_the_backbone_and_the_output_s_shape(self, model, output_stride):
        fine = self.make(output_stride=output_stride)
        # A head may have more layers where it has more to bring together.
        own, coarse = ([w.path for w in one.backbone.weights] for one in (fine, model))
        assert own == coarse
        assert fine.backbone.output.shape[1] == 64 // output_stride
        assert fine.output.shape == model.output.shape
        assert called(fine, images(1, 64, 64, 3)).shape == (1, *model.output.shape[1:])

    def test_presets_and_keras_files_give_the_model_back(self, model, tmp_path):
        model.save_to_preset(tmp_path / "preset")
        model.save(tmp_path / "model.keras")
        expected = called(model, images(1, 64, 64, 3))
        for again in (
            self.cls.from_preset(tmp_path / "preset"),
            load(tmp_path / "preset"),
            load(tmp_path / "model.keras"),
        ):
            assert type(again) is self.cls
            assert again.class_names == CLASSES
            assert difference(called(again, images(1, 64, 64, 3)), expected) < 1e-6
            kept = {name: getattr(again, name) for name in self.cls.head_arguments}
            assert kept == {name: getattr(model, name) for name in self.cls.head_arguments}

    def test_another_number_of_classes_keeps_the_backbone_and_no_names(self, model, tmp_path):
        model.save_to_preset(tmp_path)
        other = self.cls.from_preset(tmp_path, num_classes=2)
        assert (other.output.shape[-1], other.class_names) == (2, None)
        x = images(1, 64, 64, 3)
        assert difference(called(other.backbone, x), called(model.backbone, x)) == 0

    def test_an_activation_is_over_the_classes(self, model):
        probabilities = self.make({"activation": "softmax"})
        probabilities.set_weights(model.get_weights())
        x = images(2, 64, 64, 3)
        logits = array(called(model, x)).astype("float64")
        expected = np.exp(logits - logits.max(-1, keepdims=True))
        expected /= expected.sum(-1, keepdims=True)
        np.testing.assert_allclose(array(called(probabilities, x)), expected, atol=1e-5)

    @needs_channels_first
    def test_channels_first_is_the_same_model(self):
        model = self.make({"activation": "softmax"})
        first = self.make(
            {"activation": "softmax"}, input_shape=(3, 64, 64), data_format="channels_first"
        )
        first.set_weights(model.get_weights())
        x = images(1, 64, 64, 3)
        outputs = array(called(first, np.moveaxis(x, -1, 1)))
        if outputs.ndim == 4:
            outputs = np.moveaxis(outputs, 1, -1)
        assert difference(outputs, called(model, x)) < 1e-4

    def test_half_precision_gives_finite_outputs(self):
        outputs = called(self.make(dtype="mixed_bfloat16"), images(1, 64, 64, 3))
        assert np.isfinite(array(keras.ops.cast(outputs, "float32"))).all()

    def test_fusing_leaves_no_norm_and_the_same_outputs(self, tmp_path):
        model = self.make({**self.named, **self.fusable}, input_shape=(None, None, 3))
        fused = fuse(model)
        assert norms_of(fused) == []
        x = images(1, 70, 96, 3)
        assert difference(called(fused, x), called(model, x)) < 1e-4
        fused.save(tmp_path / "fused.keras")
        again = load(tmp_path / "fused.keras")
        assert is_segmenter(again) == is_segmenter(model)
        for name in ("num_classes", *self.named):
            assert getattr(again, name) == getattr(fused, name) == getattr(model, name)
        assert difference(again.predict_on_batch(x), called(model, x)) < 1e-4

    def test_training_changes_every_weight_of_the_head(self):
        model = compiled_for_a_step(self.make(), "sgd")
        before = [array(weight) for weight in model.head.trainable_variables]
        assert before
        labels = np.random.default_rng(0).integers(0, 5, (2, *model.output.shape[1:-1]))
        model.train_on_batch(images(2, 64, 64, 3), labels)
        for old, weight in zip(before, model.head.trainable_variables, strict=True):
            assert np.abs(array(weight) - old).max() > 0, weight.path

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_classes": 0}, "num_classes must be a positive integer"),
            ({"dropout": 1.0}, "dropout must be"),
            ({"activation": "sofmax"}, "activation must be"),
            ({"class_names": ["a"]}, "class_names has 1 names for num_classes=5"),
        ],
        ids=str,
    )
    def test_wrong_arguments_are_refused(self, model, arguments, message):
        with pytest.raises(DMFormerError, match=message):
            self.cls(model.backbone, **{"num_classes": 5, **self.arguments, **arguments})


class BackboneSuite:
    """A configuration of the backbone: `config`, the arguments of `DMFormerBackbone`."""

    config: ClassVar[dict]

    def make(self):
        return randomize(tiny_backbone(**{**self.config, "input_shape": (None, None, 3)}))

    @pytest.fixture
    def backbone(self):
        """One for all tests, none of which changes it."""
        return _shared(type(self))

    def test_it_is_what_its_configuration_says(self, backbone):
        config = backbone.get_config()
        assert {name: config[name] for name in self.config} == self.config
        blocks = [layer.name for layer in backbone.layers if "_block" in layer.name]
        assert blocks == [
            f"stage{stage}_block{block}"
            for stage, depth in enumerate(self.config["depths"], 1)
            for block in range(1, depth + 1)
        ]

    def test_the_pyramid_has_the_promised_channels_and_strides(self, backbone):
        extractor = keras.Model(backbone.input, backbone.pyramid_outputs)
        x = images(1, 45, 64, 3)
        outputs = {level: array(output) for level, output in called(extractor, x).items()}
        assert sorted(outputs) == sorted(backbone.feature_info) == list(LEVELS)
        for (level, info), channels in zip(
            backbone.feature_info.items(), self.config["channels"], strict=True
        ):
            expected = (-(-45 // info["stride"]), -(-64 // info["stride"]))
            assert outputs[level].shape == (1, *expected, channels)
            assert info["channels"] == channels
            assert np.isfinite(outputs[level]).all()
        np.testing.assert_array_equal(outputs["P5"], array(called(backbone, x)))

    def test_fusing_gives_the_same_features(self, backbone):
        fused = fuse(backbone)
        assert norms_of(fused) == []
        x = images(1, 45, 64, 3)
        assert difference(called(fused, x), called(backbone, x)) < 1e-3

    def test_a_preset_gives_it_back(self, backbone, tmp_path):
        backbone.save_to_preset(tmp_path)
        again = type(backbone).from_preset(tmp_path)
        assert again.get_config() == backbone.get_config()
        x = images(1, 45, 64, 3)
        assert difference(called(again, x), called(backbone, x)) == 0
