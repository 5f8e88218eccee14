"""The losses and the accuracy, each against its own formula in NumPy."""

import keras
import numpy as np
import pytest
from helpers import array

from dmformer_keras import DMFormerError
from dmformer_keras.data import IGNORED_LABEL
from dmformer_keras.training import PixelAccuracy, SegmentationLoss
from dmformer_keras.training.losses import SmoothedCrossEntropy

CLASSES = 5


def masks_and_logits(seed=0, dtype="float32"):
    """Masks with ignored pixels in which the last class does not occur, and logits."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, CLASSES - 1, (2, 6, 7))
    masks[rng.random(masks.shape) < 0.3] = IGNORED_LABEL
    return masks, rng.normal(0, 3, (2, 6, 7, CLASSES)).astype(dtype)


def known_pixels(masks, logits):
    """(labels, probabilities) of the pixels with a class."""
    known = masks != IGNORED_LABEL
    exponentials = np.exp(logits[known].astype(np.float64))
    return masks[known], exponentials / exponentials.sum(-1, keepdims=True)


def test_cross_entropy_has_smoothed_targets():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 5, 8)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = 0.9 * np.eye(5)[labels] + 0.1 / 5
    expected = -(targets * log_probabilities).sum(1).mean()
    loss = SmoothedCrossEntropy(0.1)
    np.testing.assert_allclose(array(loss(labels, logits)), expected, rtol=1e-5)
    again = SmoothedCrossEntropy.from_config(loss.get_config())
    np.testing.assert_allclose(array(again(labels, logits)), expected, rtol=1e-5)


def test_cross_entropy_counts_a_class_by_its_weight():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 5, 8)
    shares = rng.dirichlet(np.ones(5), 8).astype("float32")
    weights = np.array([1.0, 0.5, 4.0, 2.0, 9.0])
    whole, one = SmoothedCrossEntropy(0.1, weights), SmoothedCrossEntropy(0.1, reduction=None)
    expected = (array(one(labels, logits)) * weights[labels]).mean()
    np.testing.assert_allclose(array(whole(labels, logits)), expected, rtol=1e-5)
    again = SmoothedCrossEntropy.from_config(whole.get_config())
    expected = (array(one(shares, logits)) * (shares @ weights)).mean()
    np.testing.assert_allclose(array(again(shares, logits)), expected, rtol=1e-5)


@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 4.0, 2.0, 9.0)])
def test_segmentation_cross_entropy_is_a_weighted_mean_over_known_pixels(weights):
    masks, logits = masks_and_logits()
    labels, probabilities = known_pixels(masks, logits)
    of_truth = -np.log(probabilities[np.arange(len(labels)), labels])
    expected = np.average(of_truth, weights=None if weights is None else np.array(weights)[labels])
    loss = SegmentationLoss(weights)
    np.testing.assert_allclose(array(loss(masks, logits)), expected, rtol=1e-5)
    again = SegmentationLoss.from_config(loss.get_config())
    np.testing.assert_allclose(array(again(masks, logits)), expected, rtol=1e-5)


def test_dice_is_the_mean_over_the_classes_that_occur():
    masks, logits = masks_and_logits()
    labels, probabilities = known_pixels(masks, logits)
    truth = np.eye(CLASSES)[labels]
    both, total = (truth * probabilities).sum(0), (truth + probabilities).sum(0)
    expected = (1 - 2 * both / total)[: CLASSES - 1].mean()
    only_dice = array(SegmentationLoss(dice=2.0)(masks, logits)) - array(
        SegmentationLoss()(masks, logits)
    )
    np.testing.assert_allclose(only_dice, 2 * expected, rtol=1e-4)


def lovasz_of_class(truth, probabilities):
    """Berman et al. 2018, algorithm 1, spelled out."""
    errors = np.where(truth, 1 - probabilities, probabilities)
    order = np.argsort(-errors, kind="stable")
    previous, loss = 0.0, 0.0
    for count in range(1, len(order) + 1):
        wrong = np.zeros(len(order), bool)
        wrong[order[:count]] = True
        jaccard = 1 - (truth & ~wrong).sum() / (truth | wrong).sum()
        loss += errors[order[count - 1]] * (jaccard - previous)
        previous = jaccard
    return loss


def test_lovasz_is_the_extension_of_the_jaccard_loss():
    masks, logits = masks_and_logits()
    labels, probabilities = known_pixels(masks, logits)
    expected = np.mean(
        [lovasz_of_class(labels == c, probabilities[:, c]) for c in range(CLASSES - 1)]
    )
    only_lovasz = array(SegmentationLoss(lovasz=1.0)(masks, logits)) - array(
        SegmentationLoss()(masks, logits)
    )
    np.testing.assert_allclose(only_lovasz, expected, rtol=1e-4)


def gradients(loss, masks, logits):
    """The gradient of a loss for the logits, on the backend at hand."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.constant(logits)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(masks, x)
        return array(tape.gradient(value, x))
    if backend == "torch":
        import torch

        x = torch.tensor(logits, requires_grad=True)
        return array(torch.autograd.grad(loss(masks, x), x)[0])
    import jax

    return array(jax.grad(lambda x: loss(masks, x))(logits))


@pytest.mark.parametrize("arguments", [{}, {"dice": 1.0}, {"lovasz": 1.0}])
def test_void_batches_have_no_loss_and_no_gradient(arguments):
    masks, logits = masks_and_logits()
    loss = SegmentationLoss(class_weights=np.arange(CLASSES), **arguments)
    void = np.full_like(masks, IGNORED_LABEL)
    assert float(array(loss(void, logits))) == 0
    assert np.abs(gradients(loss, void, logits)).max() == 0


@pytest.mark.parametrize("arguments", [{}, {"dice": 1.0}, {"lovasz": 1.0}])
def test_gradients_stop_at_ignored_pixels_and_are_finite(arguments):
    masks, logits = masks_and_logits()
    # As sure as float32 can be, right and wrong.
    found = gradients(SegmentationLoss(**arguments), masks, 1e4 * logits)
    assert np.isfinite(found).all()
    found = gradients(SegmentationLoss(**arguments), masks, logits)
    assert np.abs(found[masks == IGNORED_LABEL]).max() == 0
    assert np.abs(found[masks != IGNORED_LABEL]).max() > 0


def test_half_precision_is_summed_in_float32():
    masks, logits = masks_and_logits()
    half = keras.ops.cast(logits, "float16")
    loss = array(SegmentationLoss(dice=1.0)(masks, half))
    expected = array(SegmentationLoss(dice=1.0)(masks, array(half).astype("float32")))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_pixel_accuracy_counts_known_pixels_over_batches():
    accuracy, right, count = PixelAccuracy(), 0, 0
    for seed in range(3):
        masks, logits = masks_and_logits(seed)
        accuracy.update_state(masks, logits)
        labels, probabilities = known_pixels(masks, logits)
        right, count = right + (probabilities.argmax(-1) == labels).sum(), count + len(labels)
    assert float(array(accuracy.result())) == pytest.approx(right / count)


def pixel_weights(kind):
    """Weights of images or pixels, some of them 0."""
    rng = np.random.default_rng(3)
    weights = rng.choice([0.0, 0.5, 3.0], (2,) if kind == "images" else (2, 6, 7))
    return weights.astype("float32")


@pytest.mark.parametrize("kind", ["images", "pixels"])
@pytest.mark.parametrize("class_weights", [None, (1.0, 0.5, 4.0, 2.0, 9.0)])
def test_sample_weights_multiply_the_losses_of_pixels(kind, class_weights):
    masks, logits = masks_and_logits()
    weights = pixel_weights(kind)
    every = np.broadcast_to(
        weights.reshape(2, *(1, 1) if kind == "images" else (6, 7)), masks.shape
    )
    labels, probabilities = known_pixels(masks, logits)
    of_truth = -np.log(probabilities[np.arange(len(labels)), labels])
    base = np.ones(len(labels)) if class_weights is None else np.array(class_weights)[labels]
    chosen = every[masks != IGNORED_LABEL]
    total = (of_truth * base * chosen).sum()
    loss = SegmentationLoss(class_weights)
    np.testing.assert_allclose(array(loss(masks, logits, weights)), total / base.sum(), rtol=1e-5)
    divided = SegmentationLoss(class_weights, reduction="mean_with_sample_weight")
    np.testing.assert_allclose(
        array(divided(masks, logits, weights)), total / (base * chosen).sum(), rtol=1e-5
    )
    found = gradients(lambda truth, x: loss(truth, x, weights), masks, logits)
    counts = (masks != IGNORED_LABEL) & (every > 0)
    assert np.abs(found[~counts]).max() == 0
    assert np.abs(found[counts]).max(axis=-1).min() > 0


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 1, 1), (2, 6, 7), (2, 6, 7, 1)])
def test_fit_weighs_pixels_as_keras_does(shape):
    """Without void pixels and class weights, the loss and the step are those of Keras's own."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, CLASSES, (2, 6, 7, 1))
    pictures = rng.normal(size=(2, 6, 7, 3)).astype("float32")
    weights = rng.choice([0.0, 0.5, 3.0], shape).astype("float32")
    every = np.broadcast_to(weights.reshape([*shape[:3], 1, 1][:3]), (2, 6, 7))
    kernel = rng.normal(size=(1, 1, 3, CLASSES)).astype("float32")

    def trained(loss, sample_weight):
        model = keras.Sequential([keras.Input((6, 7, 3)), keras.layers.Conv2D(CLASSES, 1)])
        model.set_weights([kernel, np.zeros(CLASSES, "float32")])
        model.compile("sgd", loss, weighted_metrics=[PixelAccuracy()])
        history = model.fit(
            pictures, masks, batch_size=2, sample_weight=sample_weight, verbose=0
        ).history
        return history["loss"][0], history["accuracy"][0], model.get_weights()

    own = trained(SegmentationLoss(), weights)
    expected = trained(keras.losses.SparseCategoricalCrossentropy(from_logits=True), every)
    right = (pictures @ kernel[0, 0]).argmax(-1) == masks[..., 0]
    assert own[0] == pytest.approx(expected[0], rel=1e-5)
    assert own[1] == pytest.approx(np.average(right, weights=every), rel=1e-5)
    for found, wanted in zip(own[2], expected[2], strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"dice": 1.0}, (2, 6, 7), "losses do not support"),
        ({"lovasz": 1.0}, (2,), "losses do not support"),
        ({}, (2, 7, 6), r"per pixel.*\(2, 6, 7\).*not \(2, 7, 6\)"),
        ({}, (6, 7), "per pixel"),
        ({}, (3,), "per pixel"),
    ],
)
def test_sample_weights_that_have_no_meaning_are_refused(arguments, shape, message):
    masks, logits = masks_and_logits()
    with pytest.raises(DMFormerError, match=message):
        SegmentationLoss(**arguments)(masks, logits, np.ones(shape, "float32"))


def test_pixel_accuracy_weighs_over_batches():
    accuracy, right, total = PixelAccuracy(), 0.0, 0.0
    for seed, kind in enumerate(("pixels", "images")):
        masks, logits = masks_and_logits(seed)
        weights = pixel_weights(kind)
        accuracy.update_state(masks, logits, sample_weight=0.01 * weights)
        every = (weights.reshape(2, *weights.shape[1:] or (1, 1))) * (masks != IGNORED_LABEL)
        right, total = right + every[logits.argmax(-1) == masks].sum(), total + every.sum()
    assert float(array(accuracy.result())) == pytest.approx(right / total)
