"""Checks of arguments that any part of the package may use.

Each returns the value, or raises one sentence: `NAME must be WHAT IS EXPECTED, not VALUE.`
"""

import math
import numbers

from dmformer_keras.errors import DMFormerError, shown

_FLOATS = ("float16", "bfloat16", "float32", "float64")
# Keras's activations that give other shapes than they take.
_RESHAPING = ("glu",)


def is_positive_int(value):
    """Tells whether `value` is an integer (NumPy's too, not a bool) of at least 1."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def is_finite_number(value):
    """Tells whether `value` is a finite real number (not a bool)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float is as large as
        return False


def plain_number(value):
    """A real number as Python's own, which JSON keeps, whoever's it was."""
    return value if type(value) in (int, float) else float(value)


def check_positive_int(name, value, most=None):
    """Returns `value` as an int, or raises if it is no positive integer, or over `most`."""
    if not is_positive_int(value):
        raise DMFormerError(f"{name} must be a positive integer, not {shown(value)}.")
    if most is not None and value > most:
        raise DMFormerError(f"{name} must be at most {most:,}, not {shown(value)}.")
    return int(value)


def is_text(value):
    """Tells whether `value` is a str that can be written as UTF-8."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def check_name(name):
    """Returns a model's name, or raises if it is no str that Keras takes, or None."""
    if name is not None and (not is_text(name) or not name or "/" in name):
        raise DMFormerError(f'name must be a str without "/", or None, not {shown(name)}.')
    return name


def checked_policy(dtype):
    """Returns the dtype policy of layers: the one given, or Keras's setting for None."""
    import keras

    try:
        policy = keras.dtype_policies.get(keras.config.dtype_policy() if dtype is None else dtype)
        kinds = (keras.dtype_policies.DTypePolicy, keras.dtype_policies.DTypePolicyMap)
        known = isinstance(policy, kinds) and policy.compute_dtype in _FLOATS
        known = known and policy.variable_dtype in _FLOATS
    except (TypeError, ValueError, AttributeError, LookupError):
        known = False
    if not known or getattr(policy, "quantization_mode", None) is not None:
        raise DMFormerError(
            'dtype must be a policy of floating-point numbers, such as "float32" or '
            f'"mixed_bfloat16", not {shown(dtype)}.'
        )
    return policy


def check_rate(name, value):
    """Returns `value`, or raises if it is no number in `[0, 1)`."""
    if not is_finite_number(value) or not 0 <= value < 1:
        raise DMFormerError(f"{name} must be at least 0 and less than 1, not {shown(value)}.")
    return plain_number(value)


def check_bool(name, value):
    """Returns `value`, or raises if it is no bool."""
    if not isinstance(value, bool):
        raise DMFormerError(f"{name} must be True or False, not {shown(value)}.")
    return value


def check_activation(activation):
    """Returns the name of an activation, or raises if Keras has none of this name."""
    import keras  # not above: arguments are checked before Keras is started, too

    try:
        known = isinstance(activation, str) and callable(keras.activations.get(activation))
        known = known and activation not in _RESHAPING
    except (ValueError, TypeError):
        known = False
    if not known:
        raise DMFormerError(
            'activation must be the name of one of Keras\'s, such as "gelu", not '
            f"{shown(activation)}."
        )
    return activation


def check_stages(name, stages):
    """Returns stage numbers as a sorted tuple, or raises.

    Example:

    >>> check_stages("gradient_checkpointing", [2, 1]), check_stages("gradient_checkpointing", True)
    ((1, 2), (1, 2, 3, 4))
    """
    if isinstance(stages, bool):
        return (1, 2, 3, 4) if stages else ()
    if (
        not isinstance(stages, (list, tuple))
        or len(stages) > 4
        or not all(is_positive_int(stage) and stage <= 4 for stage in stages)
    ):
        raise DMFormerError(
            f"{name} must be stage numbers from 1 to 4, such as (1, 2), or True for all of them "
            f"or False for none, not {shown(stages)}."
        )
    return tuple(sorted({int(stage) for stage in stages}))
