"""Averages over parts against a loop over the regions."""

import keras
import numpy as np
import pytest
from helpers import array, features

from dmformer_keras import DMFormerError
from dmformer_keras.layers.pooling import PartAverages


def expected(x, parts):
    def region(part, size):
        return slice(part * size // parts, -(-(part + 1) * size // parts))

    rows = [
        [x[:, region(i, x.shape[1]), region(j, x.shape[2])].mean((1, 2)) for j in range(parts)]
        for i in range(parts)
    ]
    return np.moveaxis(np.array(rows), 2, 0)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(6, 12), (7, 5), (2, 1)])
def test_parts_are_averaged_where_they_divide_and_where_not(parts, size):
    x = features(2, *size, 3)
    np.testing.assert_allclose(array(PartAverages(parts)(x)), expected(x, parts), atol=1e-6)
    first = PartAverages(parts, "channels_first")(np.moveaxis(x, -1, 1))
    np.testing.assert_allclose(np.moveaxis(array(first), 1, -1), expected(x, parts), atol=1e-6)


def test_unknown_sizes_are_taken_one_after_another():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, PartAverages(3)(inputs))
    assert model.output.shape == (None, 3, 3, 3)
    for size in ((6, 7), (2, 9), (1, 1)):
        x = features(2, *size, 3)
        np.testing.assert_allclose(model.predict_on_batch(x), expected(x, 3), atol=1e-6)


def test_no_parts_are_refused():
    with pytest.raises(DMFormerError, match="parts"):
        PartAverages(0)
