"""What a student learns from a teacher's stored answers."""

import json
import types

import keras
import numpy as np
import pytest
from helpers import array, images, tiny_classifier

from dmformer_keras import DMFormerClassifier
from dmformer_keras.data import Mixing, open_source, to_py_dataset, to_tf_dataset
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import Recipe, TeacherAnswers, train
from dmformer_keras.training.identity import describe_differences
from dmformer_keras.training.losses import SmoothedCrossEntropy
from dmformer_keras.training.teacher import TaughtAccuracy, TaughtLoss, student_model


@pytest.fixture
def source(data):
    return open_source(data, "train")


@pytest.fixture
def folder(source, tmp_path):
    """A teacher of classes in another order, one of them unknown to the student, and a 7th image
    list order."""
    return write_answers(tmp_path / "teacher", source)


def write_answers(folder, source, known=(3, 1, 5)):
    rng = np.random.default_rng(7)
    folder.mkdir()
    order = rng.permutation(len(source))
    (folder / "names.txt").write_text("\n".join(source.name(int(index)) for index in order))
    classes = [source.class_names[number] for number in known] + ["something else"]
    (folder / "classes.txt").write_text("\n".join(classes))
    logits, features = rng.normal(size=(len(source), 4)), rng.normal(3, 2, (len(source), 6))
    np.save(folder / "logits.npy", logits[order].astype("float16"))
    np.save(folder / "features.npy", features[order].astype("float16"))
    (folder / "teacher.json").write_text(json.dumps({"name": "a wise net"}))
    return folder


@pytest.mark.once_under_torch
def test_answers_are_matched_by_the_names_of_images_and_classes(folder, source):
    answers = TeacherAnswers(folder, source, temperature=2.0)
    names = (folder / "names.txt").read_text().splitlines()
    row = names.index(source.name(4))
    logits = np.load(folder / "logits.npy")[row].astype("float32")
    shares = np.exp(logits[[1, 0, 2]] / 2)  # of classes 1, 3 and 5
    found = answers([4])[0]
    assert answers.known == [1, 3, 5]
    np.testing.assert_allclose(found[:3], shares / shares.sum(), rtol=1e-5)
    features = np.load(folder / "features.npy").astype("float32")
    scores = (features[row] - features.mean(0)) / features.std(0)
    np.testing.assert_allclose(found[3:], scores, rtol=1e-4)
    assert (answers.width, answers.outputs, answers.name) == (9, 6, "a wise net")


@pytest.mark.once_under_torch
def test_a_class_whose_name_is_told_twice_is_left_to_the_labels(folder, source):
    (folder / "classes.txt").write_text("\n".join(source.class_names[n] for n in (3, 1, 5, 5)))
    assert TeacherAnswers(folder, source, 1.0).known == [1, 3]


@pytest.mark.once_under_torch
@pytest.mark.parametrize("file", ["logits.npy", "features.npy"])
def test_either_kind_of_answers_is_enough(folder, source, file):
    (folder / file).unlink()
    answers = TeacherAnswers(folder, source, 1.0)
    assert answers.width == answers([0, 1]).shape[1] == (6 if file == "logits.npy" else 3)


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("names.txt", None, "names.txt"),
        ("names.txt", "one\ntwo", "a row for each"),
        ("classes.txt", "a\nb", "4 columns"),
        ("classes.txt", "a\nb\nc\nd", "knows 0 of the classes"),
        ("logits.npy", "not an array", "numpy.save"),
        ("teacher.json", "[]", "JSON with a name"),
    ],
)
def test_what_is_missing_or_wrong_is_said(folder, source, file, content, message):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(DMFormerError, match=message):
        TeacherAnswers(folder, source, 1.0)


@pytest.mark.once_under_torch
@pytest.mark.parametrize("file", ["names.txt", "classes.txt"])
def test_answers_of_other_images_or_classes_are_others(folder, source, file):
    before = TeacherAnswers(folder, source, 1.0).identity()
    first, second, *others = (folder / file).read_text().splitlines()
    (folder / file).write_text("\n".join([second, first, *others]))
    run = {"recipe": {}, "data": {}}
    now = {
        **run,
        "data": {"draw": "position"},
        "teacher": TeacherAnswers(folder, source, 1.0).identity(),
    }
    (difference,) = describe_differences({**run, "teacher": before}, now, Recipe)
    assert difference.startswith("names and classes")
    del before["names and classes"]  # as in runs of earlier versions
    assert describe_differences({**run, "teacher": before}, now, Recipe) == []


@pytest.mark.once_under_torch
def test_an_image_without_an_answer_is_named(folder, source):
    names = (folder / "names.txt").read_text()
    (folder / "names.txt").write_text(names.replace(source.name(3) + "\n", "another\n"))
    with pytest.raises(DMFormerError, match="no line for 1 of"):
        TeacherAnswers(folder, source, 1.0)


@pytest.mark.once_under_torch
@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.5, cutmix=0.5)])
def test_each_image_of_a_batch_has_its_own_answer_mixed_as_it_is(folder, source, mixing):
    answers = TeacherAnswers(folder, source, 1.0)
    options = {"training": True, "seed": 2, "mixing": mixing}
    for step in range(6):
        with_answers = to_py_dataset(source, 32, 8, answers=answers, **options)
        shares = with_answers[step][1][:, :6]
        plan = with_answers._plan
        indexes = [plan._place(number)[1] for number in plan.numbers(step)]
        one_hot = np.eye(6)[source.labels[indexes]]
        own = 1.0
        if mixing is not None:
            expected = to_py_dataset(source, 32, 8, **options)[step]
            np.testing.assert_array_equal(with_answers[step][0], expected[0])
            np.testing.assert_array_equal(shares, expected[1])
            _, own = mixing.draw((32, 32), plan._batch_generator(step))
        np.testing.assert_allclose(shares, own * one_hot + (1 - own) * one_hot[::-1], atol=1e-6)
        told = answers(indexes)
        expected = own * told + (1 - own) * told[::-1]
        np.testing.assert_allclose(with_answers[step][1][:, 6:], expected, atol=1e-5)


@pytest.mark.once_under_torch
def test_tf_data_gives_the_same_answers(folder, source):
    answers = TeacherAnswers(folder, source, 1.0)
    options = {"training": True, "answers": answers, "mixing": Mixing(mixup=0.3), "epochs": 1}
    expected = to_py_dataset(source, 32, 8, **options)
    for step, (_, labels) in enumerate(to_tf_dataset(source, 32, 8, **options)):
        np.testing.assert_array_equal(labels.numpy(), expected[step][1])


def taught_loss(weight=0.5, features=2.0, smoothing=0.1):
    return TaughtLoss(SmoothedCrossEntropy(smoothing), 4, [0, 2], weight, 2.0, features)


def test_the_loss_is_the_weighted_sum():
    rng = np.random.default_rng(0)
    shares = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.25, 0.75, 0, 0]], "float32")
    taught = np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]], "float32")
    scores, outputs = rng.normal(size=(3, 5)), rng.normal(size=(3, 9))
    targets = np.concatenate([shares, taught, scores], axis=1).astype("float32")
    logits = outputs[:, :4]
    smoothed = 0.9 * shares + 0.1 / 4
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    by_labels = -(smoothed * log_softmax).sum(1)
    known = logits[:, [0, 2]] / 2
    known = known - np.log(np.exp(known).sum(1, keepdims=True))
    divergence = 4 * (taught * (np.log(taught) - known)).sum(1)
    weight = 0.5 * np.array([1, 0, 0.25])  # the teacher knows the classes 0 and 2
    expected = (1 - weight) * by_labels + weight * divergence
    expected += 2 * ((scores - outputs[:, 4:]) ** 2).mean(1)
    found = taught_loss().call(targets, outputs.astype("float32"))
    np.testing.assert_allclose(array(found), expected, rtol=1e-4)


def test_the_loss_is_least_where_the_student_says_what_the_teacher_says():
    taught = np.array([[0.8, 0.2]], "float32")
    targets = np.concatenate([np.eye(4, dtype="float32")[:1], taught, np.ones((1, 3))], axis=1)
    logits = np.array([[2 * np.log(0.8), -50, 2 * np.log(0.2), -50]])
    outputs = np.concatenate([logits, np.ones((1, 3))], axis=1).astype("float32")
    loss = taught_loss(weight=1.0)
    assert float(array(loss.call(targets, outputs))[0]) == pytest.approx(0, abs=1e-5)
    assert float(array(loss.call(targets, outputs + np.eye(7)[:1]))[0]) > 0.01


def test_loss_and_accuracy_are_kept_in_a_file():
    loss, metric = taught_loss(), TaughtAccuracy(4)
    again = type(loss).from_config(loss.get_config())
    assert again.get_config() == loss.get_config()
    again = type(metric).from_config(metric.get_config())
    targets = np.eye(4, 9, dtype="float32")
    again.update_state(targets, targets[:, :7])
    assert float(array(again.result())) == 1.0


def test_the_student_is_the_classifier_with_guesses_beside_its_logits():
    classifier = tiny_classifier()
    answers = types.SimpleNamespace(outputs=7, is_live=False)
    student, batch = student_model(classifier, answers), images(2, 64, 64, 3)
    outputs = array(student(batch))
    assert outputs.shape == (2, 12)
    np.testing.assert_allclose(outputs[:, :5], array(classifier(batch)), atol=1e-5)
    answers.outputs = 0
    assert student_model(classifier, answers) is classifier


@pytest.mark.once_under_torch
def test_a_student_has_whatever_head_its_classifier_has():
    classifier, batch = tiny_classifier(), images(2, 64, 64, 3)
    answers = types.SimpleNamespace(outputs=7, is_live=False)
    features = keras.Input(classifier.backbone.output.shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    wide = keras.layers.Dense(9, "relu")(pooled)
    functional = keras.Model(features, keras.layers.Dense(5)(keras.layers.Add()([wide, wide])))
    chain = keras.Sequential([keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(5)])
    for head in (functional, chain):
        model = keras.Model(classifier.input, head(classifier.backbone(classifier.input)))
        model.backbone, model.head = classifier.backbone, head
        outputs = array(student_model(model, answers)(batch))
        assert outputs.shape == (2, 12)
        np.testing.assert_allclose(outputs[:, :5], array(model(batch)), atol=1e-5)
    model.head = keras.Sequential([keras.layers.GlobalMaxPooling2D()])
    with pytest.raises(DMFormerError, match="no pooled features"):
        student_model(model, answers)


@pytest.mark.slow(on=["jax", "tensorflow"])  # which compile and trace for a minute on a CPU
def test_a_taught_run_is_resumed_and_keeps_no_part_of_the_teacher(
    data, recipe, tiny_preset, folder, tmp_path, copied_after
):
    options = {"teacher_cache": folder, "cache": tmp_path / "cache", "verbose": 0}
    with copied_after(1, tmp_path / "through", tmp_path / "cut"):
        expected = train(recipe, tiny_preset, data, tmp_path / "through", **options)
    with pytest.raises(DMFormerError, match="name"):
        train(recipe, tiny_preset, data, tmp_path / "cut", resume=True, verbose=0)
    found = train(recipe, tiny_preset, data, tmp_path / "cut", resume=True, **options)
    assert found.loss == pytest.approx(expected.loss, rel=1e-3)
    model = DMFormerClassifier.from_preset(tmp_path / "cut")
    assert model.output.shape[-1] == 6
    report = json.loads((tmp_path / "cut" / "report.json").read_text())
    assert report["teacher"] == "a wise net"


@pytest.mark.once_under_torch
def test_the_recipe_checks_the_weights_of_a_teacher():
    for wrong in ({"teacher_weight": 1.5}, {"temperature": 0}, {"feature_weight": -1}):
        with pytest.raises(DMFormerError, match=next(iter(wrong))):
            Recipe(**wrong)
    assert keras.saving.get_registered_object("dmformer_keras>TaughtLoss") is TaughtLoss
