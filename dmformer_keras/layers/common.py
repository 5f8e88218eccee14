"""What every layer here shares: axes of the data format, initial values, BatchNorm."""

from typing import Any, NoReturn

import keras

from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.layers.convolution import BatchNorm, Convolution

# PyTorch's and timm's setting (momentum 0.1 there counts the other way round).
# Keras's own 0.99 needs some 500 steps before the moving statistics can be
# trusted, longer than many fine-tuning runs. This project's decision.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


def refuse_quantize(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises, because Keras's `quantize` covers only the gates and the classifier of a DMFormer."""
    raise DMFormerError(
        "Keras quantizes dense layers only, which a DMFormer has hardly any of; export it with "
        'dmformer_keras.export.to_tflite(model, path, quantization="int8") instead.'
    )


def spatial_initializer():
    """Normal values scaled by fan-out, usual for convolutional networks (He et al. 2015)."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def pointwise_initializer():
    """Truncated normal values of deviation 0.02, for 1x1 convolutions and dense layers.

    Usual for vision transformers and ConvNeXt. It also keeps the residual branches of an untrained
    network small, so that its outputs stay finite in half precision.
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
    known = ("channels_last", "channels_first")
    if not isinstance(data_format, str) or data_format not in known:
        raise DMFormerError(
            'data_format must be "channels_last", "channels_first" or None, not '
            f"{shown(data_format)}."
        )
    return data_format


def channel_axis(data_format):
    """Returns the axis of the channels in a batch of images."""
    return 3 if data_format == "channels_last" else 1


def spatial_axes(data_format):
    """Returns the axes of height and width in a batch of images."""
    return (1, 2) if data_format == "channels_last" else (2, 3)
