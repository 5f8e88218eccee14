"""KerasHub's tasks on DMFormer, held to KerasHub's own tests and to this project's models."""

import keras
import numpy as np
import pytest
from helpers import TINIEST, images, tiny_backbone, tiny_classifier

import dmformer_keras
from dmformer_keras import DMFormerClassifier, DMFormerError, SemanticFPN, UPerNet

pytest.importorskip("tensorflow", reason="KerasHub needs TensorFlow on every backend")
keras_hub = pytest.importorskip("keras_hub")
pytest.importorskip("grain", reason="KerasHub's TestCase imports grain")
from keras_hub.src.tests import test_case  # noqa: E402

NAMES = ["ant", "bee", "cat", "dog", "elk"]
TINY = {**TINIEST, "image_shape": (64, 64, 3)}

pytestmark = [
    # KerasHub feeds arrays through grain, which does not shuffle.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
]


def predict(model, x):
    return np.asarray(model.predict(x, verbose=0))


@pytest.mark.slow(on=["jax"])  # which compiles for minutes on a CPU
class TestTasks(test_case.TestCase):
    test_session = None  # TensorFlow's helper, which only looks like a test

    def setUp(self):
        super().setUp()
        self.images = np.random.default_rng(0).uniform(0, 255, (2, 80, 64, 3)).astype("float32")
        self.arguments = {"backbone": keras_hub.models.DMFormerBackbone(**TINY), "num_classes": 3}

    def test_classifier(self):
        models = keras_hub.models
        converter = keras_hub.layers.ImageConverter(image_size=(64, 64))
        self.run_task_test(
            cls=models.DMFormerImageClassifier,
            init_kwargs={
                **self.arguments,
                "preprocessor": models.DMFormerImageClassifierPreprocessor(converter),
            },
            train_data=(self.images, np.array([0, 2])),
            expected_output_shape=(2, 3),
            # Of three fits and three predictions TensorFlow would trace each.
            compile_kwargs={"run_eagerly": keras.config.backend() == "tensorflow"},
        )

    @pytest.mark.slow(on=["tensorflow"])
    def test_segmenter(self):
        models = keras_hub.models
        converter = keras_hub.layers.ImageConverter(image_size=(64, 64))
        self.run_task_test(
            cls=models.DMFormerImageSegmenter,
            init_kwargs={
                **self.arguments,
                "head_channels": 8,
                "preprocessor": models.DMFormerImageSegmenterPreprocessor(
                    converter, resize_output_mask=True
                ),
            },
            train_data=(self.images, np.random.default_rng(0).integers(0, 3, (2, 80, 64, 1))),
            expected_output_shape=(2, 64, 64, 3),
        )


@pytest.mark.once_under_torch
def test_one_folder_serves_all_three(tmp_path):
    ours = tiny_classifier(class_names=NAMES)
    ours.save_to_preset(tmp_path / "ours")
    x = images(2, 64, 64, 3)
    theirs = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "ours"))
    assert type(theirs) is keras_hub.models.DMFormerImageClassifier
    assert theirs.class_names == NAMES
    np.testing.assert_allclose(predict(theirs, x), predict(ours, x), atol=1e-6)
    theirs.save_to_preset(str(tmp_path / "theirs"))
    again = DMFormerClassifier.from_preset(tmp_path / "theirs")
    np.testing.assert_allclose(predict(again, x), predict(ours, x), atol=1e-6)
    assert again.class_names == NAMES
    hub_again = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "theirs"))
    np.testing.assert_allclose(predict(hub_again, x), predict(ours, x), atol=1e-6)
    backbone = pytest.importorskip("keras_cv").models.DMFormerBackbone.from_preset(
        str(tmp_path / "theirs"), load_weights=True
    )
    np.testing.assert_allclose(predict(backbone, x), predict(ours.backbone, x), atol=1e-6)


@pytest.mark.once_under_torch
def test_what_keras_cv_has_written_is_read(tmp_path):
    keras_cv = pytest.importorskip("keras_cv")
    old = keras_cv.models.DMFormerBackbone.from_config(tiny_backbone().get_config())
    old.save_to_preset(tmp_path)
    x = images(2, 64, 64, 3)
    new = keras_hub.models.ImageClassifier.from_preset(str(tmp_path), num_classes=3)
    assert type(new.backbone) is keras_hub.models.DMFormerBackbone
    np.testing.assert_allclose(predict(new.backbone, x), predict(old, x), atol=1e-6)
    DMFormerClassifier(old, 3).save_to_preset(tmp_path / "task")
    assert keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "task")).num_classes == 3
    plain = DMFormerClassifier.from_preset(tmp_path, num_classes=3)
    np.testing.assert_allclose(predict(plain.backbone, x), predict(old, x), atol=1e-6)
    preprocessor = keras_hub.models.DMFormerImageClassifierPreprocessor.from_preset(str(tmp_path))
    assert tuple(preprocessor(images(1, 90, 70, 3)).shape) == (1, 64, 64, 3)


@pytest.mark.once_under_torch
def test_a_preprocessor_is_kept(tmp_path):
    models = keras_hub.models
    backbone = models.DMFormerBackbone(**TINY)
    converter = keras_hub.layers.ImageConverter
    preprocessor = models.DMFormerImageClassifierPreprocessor(
        converter(image_size=(64, 64), crop_to_aspect_ratio=False, interpolation="nearest")
    )
    model = models.DMFormerImageClassifier(backbone, 3, preprocessor=preprocessor)
    model.save_to_preset(str(tmp_path / "with"))
    x = images(1, 64, 128, 3)
    again = models.ImageClassifier.from_preset(str(tmp_path / "with"))
    np.testing.assert_allclose(predict(again, x), predict(model, x), atol=1e-6)
    ours = DMFormerClassifier.from_preset(tmp_path / "with")
    square = images(1, 64, 64, 3)
    np.testing.assert_allclose(predict(ours, square), predict(model, square), atol=1e-6)
    for number, (kind, preprocessor) in enumerate([
        (type(None), None),
        (keras.layers.Resizing, keras.layers.Resizing(64, 64)),
        (type(None), lambda image: image),
    ]):  # fmt: skip
        folder = str(tmp_path / str(number))
        models.DMFormerImageClassifier(backbone, 3, preprocessor).save_to_preset(folder)
        assert type(models.ImageClassifier.from_preset(folder).preprocessor) is kind
    # What is written over a folder leaves no preprocessor of another size behind.
    tiny_classifier(input_shape=(32, 48, 3)).save_to_preset(tmp_path / "with")
    preprocessor = models.ImageClassifierPreprocessor.from_preset(str(tmp_path / "with"))
    assert tuple(preprocessor(x).shape) == (1, 32, 48, 3)


def test_photographs_are_prepared_as_by_this_projects_commands():
    from dmformer_keras.data import resize_image

    photo = np.kron(images(80, 120, 3), np.ones((5, 5, 1))).astype("uint8")
    preprocessor = keras_hub.models.ImageClassifierPreprocessor.from_preset("dmformer_n_imagenette")
    found = np.asarray(keras.ops.convert_to_numpy(preprocessor(photo[None])))[0]
    size = dmformer_keras.load("dmformer_n_imagenette").input.shape[1:3]
    expected = resize_image(photo, size, "crop")
    assert np.abs(found.astype("float32") - expected).mean() < 2


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow has no such convolutions on a CPU"
)
def test_channels_first_presets_are_prepared_alike(tmp_path):
    first = tiny_classifier(input_shape=(3, 64, 96), data_format="channels_first")
    first.save_to_preset(tmp_path)
    theirs = keras_hub.models.ImageClassifier.from_preset(str(tmp_path))
    assert tuple(theirs.preprocessor.image_converter.image_size) == (64, 96)
    x = images(1, 3, 64, 96)
    np.testing.assert_allclose(predict(theirs, x), predict(first, x), atol=1e-4)
    theirs.save_to_preset(str(tmp_path / "again"))
    again = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "again"))
    photo = images(1, 3, 90, 120)
    np.testing.assert_allclose(predict(again, photo), predict(theirs, photo), atol=1e-6)


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    "dtype", ["mixed_bfloat16", pytest.param("bfloat16", marks=pytest.mark.slow(on=["jax"]))]
)
def test_presets_of_other_precision_are_read(dtype, tmp_path):
    ours = tiny_classifier(dtype=dtype)
    ours.save_to_preset(tmp_path)
    x = images(1, 64, 64, 3)
    theirs = keras_hub.models.ImageClassifier.from_preset(str(tmp_path))
    np.testing.assert_allclose(predict(theirs, x), predict(ours, x), atol=0.1)
    # KerasHub's rule is the precision of the process; ours that of the preset.
    assert theirs.backbone.dtype_policy.name == "float32"
    assert DMFormerClassifier.from_preset(tmp_path).backbone.dtype_policy.name == dtype


@pytest.mark.once_under_torch
def test_weights_are_one_file_and_split_ones_are_refused(tmp_path):
    backbone = keras_hub.models.DMFormerBackbone(**TINY)
    backbone.save_to_preset(str(tmp_path), max_shard_size=0.0001)
    again = keras_hub.models.DMFormerBackbone.from_preset(str(tmp_path))
    x = images(1, 64, 64, 3)
    np.testing.assert_allclose(predict(again, x), predict(backbone, x), atol=1e-6)
    (tmp_path / "model.weights.json").write_text("{}")
    (tmp_path / "model.weights.h5").unlink()
    with pytest.raises(DMFormerError, match="split over several files"):
        keras_hub.models.DMFormerBackbone.from_preset(str(tmp_path))
    tiny_backbone().save_to_preset(tmp_path)  # replaces it
    assert keras_hub.models.DMFormerBackbone.from_preset(str(tmp_path)).count_params() > 0


def test_a_segmenter_of_probabilities_has_a_loss_of_them():
    models = keras_hub.models
    arguments = {"backbone": models.DMFormerBackbone(**TINY), "num_classes": 3, "head_channels": 8}
    plain, soft = (
        models.DMFormerImageSegmenter(**arguments, activation=activation)
        for activation in (None, "softmax")
    )
    classifier = models.DMFormerImageClassifier(arguments["backbone"], 3, activation="softmax")
    assert not classifier.loss.from_logits
    soft.set_weights(plain.get_weights())
    x, masks = images(2, 64, 64, 3), np.random.default_rng(0).integers(0, 3, (2, 64, 64))
    losses = [
        float(keras.ops.convert_to_numpy(model.loss(masks, predict(model, x))))
        for model in (plain, soft)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.once_under_torch
def test_what_a_task_does_not_know_is_refused(tmp_path):
    models = keras_hub.models
    backbone = models.DMFormerBackbone(**TINY)
    with pytest.raises(DMFormerError, match="no argument 'droput'"):
        models.DMFormerImageClassifier(backbone, 3, droput=0.5)
    model = models.DMFormerImageClassifier(backbone, 3)
    with pytest.raises(DMFormerError, match="int8"):
        model.quantize("int8")
    model.save_to_preset(str(tmp_path))
    with pytest.raises(Exception, match="no argument 'input_shape'"):
        models.ImageClassifier.from_preset(str(tmp_path), input_shape=(32, 32, 3))


@pytest.mark.once_under_torch
def test_a_preset_follows_to_other_classes_and_sizes(tmp_path):
    tiny_classifier(class_names=NAMES).save_to_preset(tmp_path)
    model = keras_hub.models.ImageClassifier.from_preset(str(tmp_path), num_classes=3)
    assert model.output_shape == (None, 3)
    assert model.class_names is None
    wide = keras_hub.models.ImageClassifier.from_preset(str(tmp_path), image_shape=(32, 48, 3))
    # Photographs of any size: the preprocessor brings them to the model's.
    assert predict(wide, images(1, 90, 70, 3)).shape == (1, 5)
    other = keras_hub.models.ImageSegmenter.from_preset(
        str(tmp_path), num_classes=3, image_shape=(32, 48, 3), head_channels=8
    )
    assert predict(other, images(1, 90, 70, 3)).shape == (1, 32, 48, 3)
    preprocessor = keras_hub.models.ImageClassifierPreprocessor.from_preset(str(tmp_path))
    assert tuple(preprocessor(images(1, 90, 70, 3)).shape) == (1, 64, 64, 3)


@pytest.mark.parametrize("cls", [SemanticFPN, UPerNet])
def test_segmenters_of_either_head(cls, tmp_path):
    ours = cls(tiny_backbone(), 3, head_channels=8, class_names=NAMES[:3])
    ours.save_to_preset(tmp_path / "ours")
    x = images(1, 64, 64, 3)
    theirs = keras_hub.models.ImageSegmenter.from_preset(str(tmp_path / "ours"))
    assert type(theirs) is keras_hub.models.DMFormerImageSegmenter
    np.testing.assert_allclose(predict(theirs, x), predict(ours, x), atol=1e-5)
    theirs.save_to_preset(str(tmp_path / "theirs"))
    again = cls.from_preset(tmp_path / "theirs")
    np.testing.assert_allclose(predict(again, x), predict(ours, x), atol=1e-5)


@pytest.mark.slow(on=["jax"])
def test_a_segmenter_as_it_comes_counts_no_ignored_pixels():
    model = keras_hub.models.DMFormerImageSegmenter(
        keras_hub.models.DMFormerBackbone(**TINY), 3, head_channels=8
    )
    x, ignored = images(2, 64, 64, 3), np.full((2, 64, 64), 255)
    assert float(model.evaluate(x, ignored, verbose=0)[0]) == 0
    assert float(model.evaluate(x, np.zeros((2, 64, 64)), verbose=0)[0]) > 0


@pytest.mark.once_under_torch
def test_shipped_presets_are_built_in():
    assert "dmformer_t_imagenette" in keras_hub.models.ImageClassifier.presets
    theirs = keras_hub.models.ImageClassifier.from_preset("dmformer_t_imagenette")
    ours = DMFormerClassifier.from_preset("dmformer_t_imagenette")
    x = images(1, *ours.input.shape[1:])
    np.testing.assert_allclose(predict(theirs, x), predict(ours, x), atol=1e-5)
    assert theirs.class_names[0] == "tench"


@pytest.mark.once_under_torch
def test_keras_files_keep_the_task(tmp_path):
    model = keras_hub.models.DMFormerImageClassifier(
        keras_hub.models.DMFormerBackbone(**TINY), 3, class_names=NAMES[:3]
    )
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is type(model)
    x = images(1, 64, 64, 3)
    np.testing.assert_allclose(predict(again, x), predict(model, x), atol=1e-6)


@pytest.mark.once_under_torch
def test_an_unknown_head_is_refused():
    with pytest.raises(DMFormerError, match="SemanticFPN, UPerNet"):
        keras_hub.models.DMFormerImageSegmenter(
            keras_hub.models.DMFormerBackbone(**TINY), 3, head="FCN"
        )


@pytest.mark.slow(on=["jax", "tensorflow"])  # trace and compile for minutes on a CPU
def test_retinanet_learns_boxes_on_the_pyramid():
    """A bright square on a dark ground: after some steps the loss is a fraction of the first."""
    keras.utils.set_random_seed(0)
    models = keras_hub.models
    backbone = models.DMFormerBackbone(**{**TINY, "image_shape": (128, 128, 3)})
    detector = models.RetinaNetObjectDetector(
        backbone=models.RetinaNetBackbone(backbone, min_level=3, max_level=5, use_p5=False),
        num_classes=1,
        bounding_box_format="xyxy",
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 40, (4, 128, 128, 3)).astype("float32")
    boxes = np.zeros((4, 1, 4), "float32")
    for number in range(4):
        left, top = rng.integers(8, 72, 2)
        boxes[number, 0] = left, top, left + 40, top + 40
        x[number, top : top + 40, left : left + 40] += 180
    detector.compile(optimizer=keras.optimizers.Adam(1e-3))
    targets = {"boxes": boxes, "labels": np.zeros((4, 1), "float32")}
    history = detector.fit(x, targets, batch_size=4, epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0]
