"""Resizing to a reference's size, known beforehand or not."""

import keras
import numpy as np
import pytest
from helpers import array, features

from dmformer_keras import DMFormerError
from dmformer_keras.layers.resizing import ResizeLike


def linear(x, length, axis):
    """Half-pixel centers, clamped at the border."""
    size = x.shape[axis]
    where = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
    low = np.floor(where).astype(int)
    high = np.minimum(low + 1, size - 1)
    shape = [1] * x.ndim
    shape[axis] = length
    fraction = (where - low).reshape(shape)
    return np.take(x, low, axis) * (1 - fraction) + np.take(x, high, axis) * fraction


def nearest(x, length, axis):
    return np.take(
        x, np.floor((np.arange(length) + 0.5) * x.shape[axis] / length).astype(int), axis
    )


@pytest.mark.parametrize(("interpolation", "rule"), [("bilinear", linear), ("nearest", nearest)])
@pytest.mark.parametrize("size", [(5, 7), (10, 14), (9, 13), (17, 8)])
def test_pixels_are_squares(interpolation, rule, size):
    layer = ResizeLike(interpolation)
    inputs = [keras.Input((None, None, 3)), keras.Input((None, None, 1))]
    model = keras.Model(inputs, ResizeLike.from_config(layer.get_config())(inputs))
    first = ResizeLike(interpolation, "channels_first")
    for less in (0, 1):  # a second size is traced for any under TensorFlow
        x, reference = features(2, 5 - less, 7, 3), np.zeros((2, *size, 1), "float32")
        expected = rule(rule(x, size[0], 1), size[1], 2)
        np.testing.assert_allclose(array(layer([x, reference])), expected, atol=1e-5)
        np.testing.assert_allclose(model.predict_on_batch([x, reference]), expected, atol=1e-5)
        outputs = array(first([np.moveaxis(x, -1, 1), np.moveaxis(reference, -1, 1)]))
        np.testing.assert_allclose(np.moveaxis(outputs, 1, -1), expected, atol=1e-5)


def test_other_interpolations_are_refused():
    with pytest.raises(DMFormerError, match="cubic"):
        ResizeLike("cubic")
