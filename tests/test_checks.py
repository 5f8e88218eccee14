"""What each check of an argument lets through, and the one sentence for what it does not."""

import math

import numpy as np
import pytest

from dmformer_keras import DMFormerError
from dmformer_keras.checks import check_activation, check_bool, check_positive_int, check_rate

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_positive_integers(value):
    checked = check_positive_int("size", value)
    assert (checked, type(checked)) == (value, int)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_what_is_no_positive_integer(value):
    with pytest.raises(DMFormerError, match=r"^size must be a positive integer, not .+\.$"):
        check_positive_int("size", value)


@pytest.mark.parametrize("value", [0, 0.0, 0.99, np.float32(0.5)])
def test_rates(value):
    assert check_rate("dropout", value) == value


@pytest.mark.parametrize("value", [1, -0.1, math.nan, math.inf, False, "0.5", None])
def test_what_is_no_rate(value):
    with pytest.raises(DMFormerError, match=r"^dropout must be at least 0 and less than 1, not "):
        check_rate("dropout", value)


def test_booleans():
    assert (check_bool("flip", True), check_bool("flip", False)) == (True, False)
    for value in (0, 1, None, "True"):
        with pytest.raises(DMFormerError, match=r"^flip must be True or False, not "):
            check_bool("flip", value)


def test_activations():
    assert check_activation("gelu") == "gelu"
    for value in ("glue", None, max):
        with pytest.raises(DMFormerError, match=r"^activation must be the name of one of Keras"):
            check_activation(value)
