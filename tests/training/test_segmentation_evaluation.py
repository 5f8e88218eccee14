"""Metrics of segmentation against scikit-learn's, on random cases."""

import numpy as np
import pytest
from helpers import TINIEST, tiny_backbone
from sklearn import metrics

from dmformer_keras import DMFormerError, SemanticFPN
from dmformer_keras.data import IGNORED_LABEL, open_source
from dmformer_keras.inference import segment_image
from dmformer_keras.training import (
    SegmentationEvaluation,
    count_confusion,
    evaluate_segmenter,
)

NAMES = list("abcde")


def random_case(seed, classes=5, shape=(3, 20, 30)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape)
    prediction = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, classes, shape))
    truth[rng.random(shape) < 0.1] = IGNORED_LABEL
    return truth.astype("uint8"), prediction.astype("uint8")


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_scikit_learn_s(seed):
    truth, prediction = random_case(seed)
    evaluation = SegmentationEvaluation(NAMES, count_confusion(truth, prediction, 5), 3)
    known = truth != IGNORED_LABEL
    truth, prediction = truth[known], prediction[known]
    jaccard = metrics.jaccard_score(truth, prediction, average=None)
    recall = metrics.recall_score(truth, prediction, average=None)
    weighted = metrics.jaccard_score(truth, prediction, average="weighted")
    np.testing.assert_array_equal(evaluation.confusion, metrics.confusion_matrix(truth, prediction))
    np.testing.assert_allclose(list(evaluation.class_iou.values()), jaccard)
    np.testing.assert_allclose(list(evaluation.class_accuracy.values()), recall)
    assert evaluation.miou == pytest.approx(jaccard.mean())
    assert evaluation.mean_accuracy == pytest.approx(recall.mean())
    assert evaluation.pixel_accuracy == pytest.approx(metrics.accuracy_score(truth, prediction))
    assert evaluation.frequency_weighted_iou == pytest.approx(weighted)


def test_classes_that_never_occur_are_left_out_unless_predicted():
    confusion = np.zeros((3, 3), int)
    confusion[0, 0], confusion[0, 1] = 3, 1
    evaluation = SegmentationEvaluation(list("abc"), confusion, 1)
    assert evaluation.class_iou == {"a": 0.75, "b": 0.0, "c": None}
    assert evaluation.miou == 0.375
    assert evaluation.class_accuracy == {"a": 0.75, "b": None, "c": None}
    assert evaluation.mean_accuracy == 0.75


def data(seed=0):
    """Images of three sizes with masks, some pixels ignored."""
    rng = np.random.default_rng(seed)
    sizes = [(40, 50), (64, 64), (33, 70)]
    masks = [random_case(index, shape=size)[0] for index, size in enumerate(sizes)]
    pictures = [rng.integers(0, 256, (*size, 3)).astype("uint8") for size in sizes]
    return pictures, masks, NAMES


def test_evaluation_streams_over_images_of_any_size():
    backbone = tiny_backbone(input_shape=(None, None, 3), **TINIEST)
    model = SemanticFPN(backbone, 5, head_channels=8, class_names=NAMES)
    pictures, masks, _ = data()
    source = open_source(data(), "all", task="segment")
    evaluation = evaluate_segmenter(model, source)
    expected = sum(
        count_confusion(mask, segment_image(model, picture), 5)
        for picture, mask in zip(pictures, masks, strict=True)
    )
    np.testing.assert_array_equal(evaluation.confusion, expected)
    assert evaluation.examples == 3
    assert evaluation.metrics()["miou"] == evaluation.miou


def test_other_classes_are_refused():
    model = SemanticFPN(tiny_backbone(input_shape=(None, None, 3)), 4, head_channels=8)
    with pytest.raises(DMFormerError, match="4 classes without names"):
        evaluate_segmenter(model, open_source(data(), "all", task="segment"))
