"""What a student learns from a teacher that looks at the same batch."""

import json

import keras
import numpy as np
import pytest
from helpers import TINIEST, array, images, shapes, tiny_classifier

from dmformer_keras import DMFormerClassifier, SemanticFPN
from dmformer_keras.data import open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import Recipe, SegmentationRecipe, train
from dmformer_keras.training.live_teacher import Teacher
from dmformer_keras.training.losses import SegmentationLoss, SmoothedCrossEntropy
from dmformer_keras.training.teacher import (
    TaughtAccuracy,
    TaughtLoss,
    TaughtPixelAccuracy,
    TaughtSegmentationLoss,
    TeacherAnswers,
    student_model,
)


@pytest.fixture
def source(data):
    return open_source(data, "train")


def teacher_model(source, known=(3, 1, 5), **overrides):
    """A classifier of three of the source's classes, in another order, and one of its own."""
    names = [source.class_names[number] for number in known] + ["something else"]
    overrides = {**TINIEST, "input_shape": (None, None, 3), **overrides}
    return tiny_classifier(num_classes=len(names), class_names=names, **overrides)


@pytest.fixture
def teacher_folder(source, tmp_path):
    folder = tmp_path / "wise"
    teacher_model(source, input_shape=(64, 64, 3)).save_to_preset(folder)
    return folder


def softmax(logits):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def test_a_teacher_says_its_probabilities_of_the_classes_that_both_know(source):
    model = teacher_model(source)
    teacher = Teacher(model, source, temperature=2.0)
    batch = images(3, 32, 32, 1)
    logits = array(model(batch.repeat(3, -1)))[:, [1, 0, 2]]  # of classes 1, 3 and 5
    assert teacher.known == [1, 3, 5]
    np.testing.assert_allclose(array(teacher(batch)), softmax(logits / 2), rtol=1e-4)


def test_logits_and_probabilities_are_told_apart(source):
    model = teacher_model(source)
    again = DMFormerClassifier(
        model.backbone, 4, class_names=model.class_names, activation="softmax"
    )
    again.set_weights(model.get_weights())
    batch = images(3, 32, 32, 1)
    found, expected = (array(Teacher(one, source, 1.0)(batch)) for one in (again, model))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("size", "seen"), [(None, 64), (96, 96), ("student", 32)])
def test_a_preset_sees_images_of_its_own_size_or_of_another(source, teacher_folder, size, seen):
    teacher = Teacher(str(teacher_folder), source, 1.0, image_size=size)
    model = DMFormerClassifier.from_preset(teacher_folder, input_shape=(seen, seen, 3))
    batch = images(2, 32, 32, 1)
    resized = keras.ops.image.resize(batch.repeat(3, -1), (seen, seen), antialias=True)
    expected = softmax(array(model(resized))[:, [1, 0, 2]])
    np.testing.assert_allclose(array(teacher(batch)), expected, atol=1e-4)


def plain_model(path, classes=4):
    """A Keras model that knows nothing of this package."""
    inputs = keras.Input((48, 48, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(6, 5, strides=4, activation="relu")(x)
    outputs = keras.layers.Dense(classes, activation="softmax")(
        keras.layers.GlobalMaxPooling2D()(x)
    )
    model = keras.Model(inputs, outputs)
    model.save(path)
    return model


def test_any_keras_model_teaches_with_the_names_of_its_classes(source, tmp_path):
    model = plain_model(tmp_path / "plain.keras")
    names = [source.class_names[2], "x", source.class_names[0], "y"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    batch = images(2, 48, 48, 1)
    probabilities = array(model(batch.repeat(3, -1)))[:, [2, 0]]
    for given in (names, tmp_path / "names.txt"):
        teacher = Teacher(tmp_path / "plain.keras", source, 1.0, class_names=given)
        assert teacher.known == [0, 2]
        expected = probabilities / probabilities.sum(-1, keepdims=True)
        np.testing.assert_allclose(array(teacher(batch)), expected, rtol=1e-3)


def test_the_image_converter_of_a_keras_hub_task_is_heeded(source):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(None, None, 3),
    )  # fmt: skip
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=(40, 40), scale=[0.01, 0.02, 0.03], offset=[-1.0, 0.5, 0.0], antialias=True
    )
    task = keras_hub.models.ResNetImageClassifier(
        backbone,
        num_classes=6,
        preprocessor=keras_hub.models.ResNetImageClassifierPreprocessor(converter),
    )
    batch = images(2, 64, 64, 1)
    expected = softmax(np.asarray(task.predict(batch.repeat(3, -1), verbose=0)))
    found = array(Teacher(task, source, 1.0, class_names=source.class_names)(batch))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_cannot_teach_is_refused(source, tmp_path, monkeypatch):
    plain = plain_model(tmp_path / "plain.keras", classes=6)
    names = source.class_names
    for model, options, message in [
        (plain, {}, "no class names"),
        (plain, {"class_names": names[:3]}, "6 outputs, and 3"),
        (plain, {"class_names": list("abcdef")}, "knows 0 of the classes"),
        (plain, {"class_names": names, "image_size": 64}, "48x48 pixels only"),
        (plain, {"class_names": tmp_path / "none.txt"}, "cannot be read"),
        (plain, {"class_names": names, "segments": True}, "segmenter"),
        (teacher_model(source, input_shape=(None, None, 4)), {}, "4 channels"),
        (tmp_path / "none.keras", {}, "no file"),
        (tmp_path / "model.onnx", {}, "exported file"),
        (17, {}, "not 17"),
    ]:
        with pytest.raises(DMFormerError, match=message):
            Teacher(model, source, 1.0, **options)
    (tmp_path / "broken.keras").write_bytes(b"no model")
    with pytest.raises(DMFormerError, match="of another kind"):
        Teacher(tmp_path / "broken.keras", source, 1.0)


def test_the_loss_of_a_live_teacher_is_that_of_stored_answers():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 4)).astype("float32")
    taught = softmax(rng.normal(size=(5, 2))).astype("float32")
    labels = np.array([0, 1, 2, 3, 0])
    shares = np.eye(4, dtype="float32")[labels]
    settings = SmoothedCrossEntropy(0.1), 4, [0, 2], 0.7, 2.0, 0.0
    stored, live = TaughtLoss(*settings), TaughtLoss(*settings, live=True)
    expected = array(stored.call(np.concatenate([shares, taught], 1), logits))
    outputs = np.concatenate([logits, taught], 1)
    for targets in (labels, shares):
        np.testing.assert_allclose(array(live.call(targets, outputs)), expected, rtol=1e-5)
    for targets in (labels, shares):
        accuracy = TaughtAccuracy(4)
        accuracy.update_state(targets, outputs)
        right = (logits.argmax(1) == labels).mean()
        assert float(array(accuracy.result())) == pytest.approx(right)


def test_each_pixel_learns_from_the_teacher_or_from_the_mask_alone():
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 3, (2, 4, 5))
    masks[:, 0] = 255
    logits = rng.normal(size=(2, 4, 5, 3)).astype("float32")
    taught = softmax(rng.normal(size=(2, 4, 5, 2))).astype("float32")
    class_weights = [1.0, 2.0, 0.5]
    settings = {"class_weights": class_weights, "dice": 0.3}
    loss = TaughtSegmentationLoss(3, [0, 2], 0.6, 2.0, **settings)
    outputs = np.concatenate([logits, taught], -1)
    found = float(array(loss(masks, outputs)))
    by_mask = -np.log(np.take_along_axis(softmax(logits), (masks % 255)[..., None], -1))[..., 0]
    own = np.log(softmax(logits[..., [0, 2]] / 2))
    divergence = 4 * (taught * (np.log(taught) - own)).sum(-1)
    share = 0.6 * np.isin(masks, [0, 2])
    weights = np.array([*class_weights])[masks % 255] * (masks != 255)
    expected = ((1 - share) * by_mask + share * divergence) * weights
    dice = SegmentationLoss(**settings)(masks, logits)
    dice = float(array(dice)) - float(array(SegmentationLoss(class_weights)(masks, logits)))
    assert found == pytest.approx(expected.sum() / weights.sum() + dice, rel=1e-4)
    again = type(loss).from_config(loss.get_config())
    assert float(array(again(masks, outputs))) == pytest.approx(found)
    metric = TaughtPixelAccuracy(3)
    type(metric).from_config(metric.get_config()).update_state(masks, outputs)
    metric.update_state(masks, outputs)
    right = (logits.argmax(-1) == masks)[masks != 255].mean()
    assert float(array(metric.result())) == pytest.approx(right)


def test_the_student_holds_no_weight_of_the_teacher(source):
    student = tiny_classifier(num_classes=6, **TINIEST, input_shape=(32, 32, 1))
    model = student_model(student, Teacher(teacher_model(source), source, 1.0))
    assert model.count_params() == student.count_params()
    assert array(model(images(2, 32, 32, 1))).shape == (2, 9)
    again = keras.Model.from_config(model.get_config())  # as a checkpoint is opened, without it
    assert again.output.shape == model.output.shape == (None, 9)


@pytest.mark.slow(on=["jax", "tensorflow"])  # which compile and trace for a minute on a CPU
def test_a_run_with_a_teacher_is_resumed(
    data, recipe, tiny_preset, teacher_folder, tmp_path, copied_after
):
    options = {"teacher": teacher_folder, "verbose": 0}
    with copied_after(1, tmp_path / "through", tmp_path / "cut"):
        expected = train(recipe, tiny_preset, data, tmp_path / "through", **options)
    with pytest.raises(DMFormerError, match="weights"):
        train(recipe, tiny_preset, data, tmp_path / "cut", resume=True, verbose=0)
    found = train(recipe, tiny_preset, data, tmp_path / "cut", resume=True, **options)
    assert found.loss == pytest.approx(expected.loss, rel=1e-3)
    report = json.loads((tmp_path / "cut" / "report.json").read_text())
    assert report["teacher"].startswith("wise, weights ")
    assert DMFormerClassifier.from_preset(tmp_path / "cut").output.shape[-1] == 6


@pytest.mark.slow(on=["jax", "tensorflow"])  # which compile and trace for a minute on a CPU
def test_answers_are_computed_once_and_kept(
    data, source, recipe, tiny_preset, teacher_folder, tmp_path, monkeypatch
):
    answers = tmp_path / "new" / "answers"
    teacher = Teacher(teacher_folder, source, 2.0)
    assert not teacher.has_stored(answers)
    arguments = recipe, tiny_preset, data, tmp_path / "run"
    options = {"teacher": teacher_folder, "teacher_cache": answers, "verbose": 0}
    train(*arguments, **options)
    assert teacher.has_stored(answers)
    stored = TeacherAnswers(answers, source, 2.0)
    batch = np.stack([source.read(index)[0] for index in (4, 7)]).astype("float32")
    np.testing.assert_allclose(stored([4, 7]), array(teacher(batch)), atol=2e-3)
    other = tmp_path / "other"
    teacher_model(source, input_shape=(64, 64, 3)).save_to_preset(other)
    with pytest.raises(DMFormerError, match="something else"):
        Teacher(other, source, 2.0).has_stored(answers)
    monkeypatch.setattr(Teacher, "store_answers", None)  # nothing is computed again
    train(*arguments, **options, resume=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["teacher"].startswith("wise, weights ")


@pytest.mark.slow(on=["jax"])
def test_a_segmenter_learns_from_a_segmenter(tiny_preset, tmp_path):
    data = shapes(12)
    folder = tmp_path / "teacher"
    teacher = SemanticFPN(
        tiny_classifier(**TINIEST).backbone, 3, class_names=data[2][::-1], head_channels=8
    )
    teacher.save_to_preset(folder)
    settings = {"epochs": 1, "batch_size": 4, "image_size": 64, "augmentation": "light"}
    recipe = SegmentationRecipe(head_channels=8, **settings)
    with pytest.raises(DMFormerError, match="teacher_cache"):
        train(recipe, tiny_preset, data, tmp_path / "none", teacher_cache=folder, verbose=0)
    found = train(recipe, tiny_preset, data, tmp_path / "run", teacher=folder, verbose=0)
    assert found.examples > 0


@pytest.mark.once_under_torch
def test_the_recipe_checks_the_size_of_a_teacher():
    assert Recipe(teacher_image_size="student").teacher_image_size == "student"
    for wrong in (16, "large", 1.5):
        with pytest.raises(DMFormerError, match="teacher_image_size"):
            Recipe(teacher_image_size=wrong)
