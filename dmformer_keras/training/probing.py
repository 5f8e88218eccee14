"""A linear probe: the head of a classifier, solved on the features of a backbone as it is."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.inference.model_outputs import is_binary
from dmformer_keras.layers.common import BATCH_NORM_EPSILON
from dmformer_keras.system.bars import progress_bar
from dmformer_keras.training.batches import evaluation_batches, stated_data_errors
from dmformer_keras.training.evaluation import EVALUATION_BATCH_SIZE, check_classes

if TYPE_CHECKING:
    from dmformer_keras.classifier import DMFormerClassifier
    from dmformer_keras.data import ImageSource


# The inverse strength of the regularization of standardized features, and the most steps.
_INVERSE_STRENGTH = 0.1
_STEPS = 1000
# How far below the others the logit of a class without images begins.
_NEVER = 10.0


def solve_head(
    model: DMFormerClassifier,
    source: ImageSource,
    image_size: tuple[int, int],
    *,
    most: int | None = None,
    progress: bool = False,
) -> None:
    """Sets a classifier's head to the best linear one for some images; the backbone stays.

    The features are the pooled outputs of the backbone for each image, as evaluation prepares
    it. The head's BatchNorm standardizes them, and its dense layer is the solution of a
    regularized logistic regression. What the backbone's weights are worth for these images
    is then known in a minute, and training may go on from there.

    Source: Kumar et al. 2022 (linear probing, then fine-tuning); solved by scikit-learn.

    Args:
        model: `DMFormerClassifier`, channels last.
        source: ImageSource with the model's classes, whose labels are known.
        image_size: (height, width), ints, in pixels.
        most: int, positive, solve it on so many images, drawn at random, where there are more;
            None takes all of them.
        progress: bool, show a progress bar on stderr.

    Raises:
        DMFormerError: scikit-learn is missing, the images are streamed, all of one class or not of
            the model's classes, or one cannot be read; or `most` is no positive whole number.

    Example:

    >>> import dmformer_keras
    >>> from dmformer_keras.data import open_source
    >>> model = dmformer_keras.DMFormerN(input_shape=(32, 32, 3), num_classes=10)
    >>> solve_head(model, open_source("digits", "val"), (32, 32))
    >>> dmformer_keras.training.evaluate(model, open_source("digits", "val")).top1 > 0.5
    True
    """
    check_can_probe(source)
    check_classes(model, source)
    if most is not None and (not isinstance(most, numbers.Integral) or most < 1):
        raise DMFormerError(f"most must be a whole number, 1 or more, or None, not {shown(most)}.")
    if is_binary(model):
        raise DMFormerError(
            "solve_head solves heads with an output for each class, and this one has a single "
            "output; give a classifier with num_classes=2."
        )
    if most is not None and most < len(source):
        source = _drawn(source, most)
    norm, *_, dense = model.head.layers
    features = _pooled_features(model.backbone, source, image_size, progress)
    mean, variance, kernel, bias = solve_linear(features, source.labels, len(source.class_names))
    gamma, beta = np.ones_like(mean), np.zeros_like(mean)
    norm.set_weights([gamma, beta, mean, variance])
    dense.set_weights([kernel, bias])


def solve_linear(
    features: NDArray[np.float64], labels: NDArray[np.integer], num_classes: int
) -> tuple[NDArray[np.float64], ...]:
    """Solves the regularized logistic regression of standardized features; returns mean and
    variance of the features, a kernel (features, classes) and a bias (classes,), for the logits
    `(features - mean) / sqrt(variance + BATCH_NORM_EPSILON) @ kernel + bias`.
    """
    from sklearn.linear_model import LogisticRegression

    mean, variance = features.mean(axis=0), features.var(axis=0)
    scores = (features - mean) / np.sqrt(variance + BATCH_NORM_EPSILON)
    solution = LogisticRegression(C=_INVERSE_STRENGTH, max_iter=_STEPS).fit(scores, labels)
    return mean, variance, *_of_all_classes(solution, num_classes)


def check_can_probe(source):
    """Checks that the features of a source's images can be computed and a head solved."""
    if source.labels is None:
        raise DMFormerError(
            f"{source.title} is streamed, and a probe needs all images at once; leave out the "
            "probe."
        )
    if len(np.unique(source.labels)) < 2:
        raise DMFormerError(
            f"All images of {source.title} are of one class, and a probe tells classes apart; give "
            "images of another class, too, or leave out the probe."
        )
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise DMFormerError(
            "A probe is solved by scikit-learn, which is not installed; run `pip install "
            "scikit-learn`, or leave out the probe."
        ) from error


def _drawn(source, count):
    """A source of so many of another's images, the same ones each time, some of every class."""
    order = np.random.default_rng(0).permutation(len(source))
    _, firsts = np.unique(source.labels[order], return_index=True)
    chosen = np.sort([*order[firsts], *np.delete(order, firsts)][: max(count, len(firsts))])
    drawn = source.with_reader(lambda index: source.read(int(chosen[index])))
    drawn.labels = source.labels[chosen]
    return drawn


def _pooled_features(backbone, source, image_size, progress):
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(backbone.output)
    extractor = keras.Model(backbone.input, pooled)
    rows = []
    batches = evaluation_batches(source, image_size, EVALUATION_BATCH_SIZE)
    with (
        stated_data_errors(),
        progress_bar("Computing features", len(source), shown=progress) as bar,
    ):
        for images, labels in batches:
            rows.append(np.asarray(extractor.predict_on_batch(images), np.float64))
            bar.update(len(labels))
    return np.concatenate(rows)


def _of_all_classes(solution, num_classes):
    """The solution as (features, classes) and (classes,); classes without images come last."""
    own_kernel, own_bias = solution.coef_.T, solution.intercept_
    if len(solution.classes_) == 2:  # scikit-learn gives the second class's logit only
        own_kernel = np.concatenate([np.zeros_like(own_kernel), own_kernel], axis=1)
        own_bias = np.concatenate([[0.0], own_bias])
    kernel = np.zeros((len(own_kernel), num_classes))
    bias = np.full(num_classes, own_bias.min() - _NEVER)
    kernel[:, solution.classes_], bias[solution.classes_] = own_kernel, own_bias
    return kernel, bias
