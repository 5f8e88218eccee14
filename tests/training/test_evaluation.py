"""Metrics are counts over all images, whatever the batches."""

import keras
import numpy as np
import pytest
from helpers import TO_TRAIN, array, randomize, tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.data import open_source
from dmformer_keras.training import batches, evaluate, to_probabilities


@pytest.fixture(scope="module")
def model(data):
    options = {"class_names": data[2], "input_shape": (32, 32, 1), **TO_TRAIN}
    return randomize(tiny_classifier(num_classes=6, **options))


@pytest.fixture(scope="module")
def source(data):
    return open_source(data, "all")


def test_metrics_are_those_of_the_definitions(model, source, data):
    images, labels, names = data
    logits = np.asarray(array(model(images.astype("float32"), training=False)), np.float64)
    predicted = logits.argmax(1)
    evaluation = evaluate(model, source)
    assert evaluation.examples == 72
    assert evaluation.top1 == (predicted == labels).mean()
    ranks = (logits > logits[np.arange(72), labels][:, None]).sum(1)
    assert evaluation.top5 == (ranks < 5).mean()
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(72), labels]
    assert evaluation.loss == pytest.approx(expected.mean(), rel=1e-4)
    for label, name in enumerate(names):
        assert evaluation.class_accuracy[name] == (predicted[labels == label] == label).mean()
    expected = np.zeros((6, 6), int)
    np.add.at(expected, (labels, predicted), 1)
    np.testing.assert_array_equal(evaluation.confusion, expected)


@pytest.mark.parametrize("batch_size", [7, 72])
def test_batches_do_not_change_the_counts(model, source, batch_size):
    one, other = evaluate(model, source), evaluate(model, source, batch_size=batch_size)
    np.testing.assert_array_equal(one.confusion, other.confusion)
    assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_without_tensorflow_the_numbers_are_the_same(model, source, monkeypatch):
    expected, asked = evaluate(model, source), []
    monkeypatch.setattr(batches, "tensorflow_is_installed", lambda: asked.append(True))
    actual = evaluate(model, source)
    assert asked
    assert actual.metrics() == expected.metrics()


def test_top5_is_left_out_where_it_says_nothing(data):
    images, labels, names = data
    few = labels < 5
    source = open_source((images[few], labels[few], names[:5]), "all")
    model = tiny_classifier(5, input_shape=(32, 32, 1), **TO_TRAIN)
    assert "top5" not in evaluate(model, source).metrics()


def test_a_class_without_images_has_no_accuracy(model, data):
    images, labels, names = data
    some = labels != 2
    evaluation = evaluate(model, open_source((images[some], labels[some], names), "all"))
    assert evaluation.class_accuracy["stripes 3"] is None


@pytest.mark.parametrize("names", [["a", "b"], ["stripes 2", "stripes 1"]])
def test_other_classes_are_refused(model, data, names):
    images, labels, all_names = data
    if len(names) == 2 and names[0] == "stripes 2":
        names = names + all_names[2:]
    few = labels < len(names)
    with pytest.raises(DMFormerError, match="classes"):
        evaluate(model, open_source((images[few], labels[few], names), "all"))


def test_softmax_and_logits_give_the_same_probabilities():
    logits = np.random.default_rng(0).normal(size=(4, 7)) * 20
    softmax = array(keras.ops.softmax(logits.astype("float32")))
    from_logits = to_probabilities(logits, None)
    np.testing.assert_allclose(to_probabilities(softmax, "softmax"), from_logits, atol=1e-6)
    np.testing.assert_allclose(from_logits.sum(1), 1)
    with pytest.raises(DMFormerError, match="sigmoid"):
        to_probabilities(logits, "sigmoid")


def test_outputs_that_are_not_finite_are_an_error():
    with pytest.raises(DMFormerError, match="not finite"):
        to_probabilities(np.array([[0.0, np.nan]]), None)
