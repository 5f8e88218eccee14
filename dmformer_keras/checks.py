"""Checks of arguments that any part of the package may use.

Each returns the value, or raises one sentence: `NAME must be WHAT IS EXPECTED, not VALUE.`
"""

import math
import numbers

from dmformer_keras.errors import DMFormerError


def is_positive_int(value):
    """Tells whether `value` is an integer (NumPy's too, not a bool) of at least 1."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def is_finite_number(value):
    """Tells whether `value` is a finite real number (not a bool)."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def check_positive_int(name, value):
    """Returns `value` as an int, or raises if it is no positive integer."""
    if not is_positive_int(value):
        raise DMFormerError(f"{name} must be a positive integer, not {value!r}.")
    return int(value)


def check_rate(name, value):
    """Returns `value`, or raises if it is no number in `[0, 1)`."""
    if not is_finite_number(value) or not 0 <= value < 1:
        raise DMFormerError(f"{name} must be at least 0 and less than 1, not {value!r}.")
    return value


def check_bool(name, value):
    """Returns `value`, or raises if it is no bool."""
    if not isinstance(value, bool):
        raise DMFormerError(f"{name} must be True or False, not {value!r}.")
    return value


def check_activation(activation):
    """Returns the name of an activation, or raises if Keras has none of this name."""
    import keras  # not above: arguments are checked before Keras is started, too

    try:
        known = isinstance(activation, str) and callable(keras.activations.get(activation))
    except ValueError:
        known = False
    if not known:
        raise DMFormerError(
            f'activation must be the name of one of Keras\'s, such as "gelu", not {activation!r}.'
        )
    return activation


def check_stages(name, stages):
    """Returns stage numbers as a sorted tuple, or raises.

    Args:
        name: str. The argument's name, for the error.
        stages: sequence of ints from 1 to 4; `True` for all of them, `False` for none.

    Raises:
        DMFormerError: if it is anything else.

    Example:

    >>> check_stages("gradient_checkpointing", [2, 1]), check_stages("gradient_checkpointing", True)
    ((1, 2), (1, 2, 3, 4))
    """
    if isinstance(stages, bool):
        return (1, 2, 3, 4) if stages else ()
    if not isinstance(stages, (list, tuple)) or not all(
        is_positive_int(stage) and stage <= 4 for stage in stages
    ):
        raise DMFormerError(
            f"{name} must be stage numbers from 1 to 4, such as (1, 2), or True for all of them "
            f"or False for none, not {stages!r}."
        )
    return tuple(sorted({int(stage) for stage in stages}))
