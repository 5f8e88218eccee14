"""What every layer here shares: axes of the data format, initial values, BatchNorm."""

import math
import numbers

import keras

from dmformer_keras.errors import DMFormerError
from dmformer_keras.layers.convolution import BatchNorm, Convolution

# PyTorch's and timm's setting (momentum 0.1 there counts the other way round).
# Keras's own 0.99 needs some 500 steps before the moving statistics can be
# trusted, longer than many fine-tuning runs. This project's decision.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


def spatial_initializer():
    """Normal values scaled by fan-out, the habit of convolutional networks (He et al. 2015)."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def pointwise_initializer():
    """Truncated normal values of deviation 0.02, for 1x1 convolutions and dense layers.

    The habit of vision transformers and ConvNeXt. It also keeps an untrained network's
    residual branches small, so that its outputs stay finite in half precision.
    """
    return keras.initializers.TruncatedNormal(stddev=0.02)


def pointwise_convolution(filters, name, data_format, dtype, use_bias=True, activation=None):
    """Returns a 1x1 convolution."""
    return Convolution(
        filters,
        1,
        use_bias=use_bias,
        activation=activation,
        data_format=data_format,
        kernel_initializer=pointwise_initializer(),
        dtype=dtype,
        name=name,
    )


def batch_norm(name, data_format, dtype):
    """Returns a BatchNorm over the channels, with this project's constants."""
    return BatchNorm(
        axis=channel_axis(data_format),
        momentum=BATCH_NORM_MOMENTUM,
        epsilon=BATCH_NORM_EPSILON,
        dtype=dtype,
        name=name,
    )


def standard_data_format(data_format):
    """Returns the data format with `None` replaced by Keras's setting, or raises."""
    if data_format is None:
        return keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise DMFormerError(
            f'data_format must be "channels_last", "channels_first" or None, not {data_format!r}.'
        )
    return data_format


def channel_axis(data_format):
    """Returns the axis of the channels in a batch of images."""
    return 3 if data_format == "channels_last" else 1


def spatial_axes(data_format):
    """Returns the axes of height and width in a batch of images."""
    return (1, 2) if data_format == "channels_last" else (2, 3)


def is_positive_int(value):
    """Tells whether `value` is an integer (NumPy's too, not a bool) of at least 1."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def check_positive_int(name, value):
    """Returns `value` as an int, or raises if it is no positive integer."""
    if not is_positive_int(value):
        raise DMFormerError(f"{name} must be a positive integer, not {value!r}.")
    return int(value)


def is_finite_number(value):
    """Tells whether `value` is a finite real number (not a bool)."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def check_bool(name, value):
    """Returns `value`, or raises if it is no bool."""
    if not isinstance(value, bool):
        raise DMFormerError(f"{name} must be True or False, not {value!r}.")
    return value


def check_activation(activation):
    """Returns the name of an activation, or raises if Keras has none of this name."""
    try:
        known = isinstance(activation, str) and callable(keras.activations.get(activation))
    except ValueError:
        known = False
    if not known:
        raise DMFormerError(
            f'activation must be the name of one of Keras\'s, such as "gelu", not {activation!r}.'
        )
    return activation
