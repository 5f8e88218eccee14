"""DMFormerBackbone: the stem, four stages of DMFormer blocks, and their pyramid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import keras

from dmformer_keras.architectures import MINIMUM_SIZE
from dmformer_keras.checks import (
    check_activation,
    check_bool,
    check_name,
    check_positive_int,
    check_rate,
    check_stages,
    checked_policy,
    is_positive_int,
)
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.layers.attention import DEFAULT_LEVELS, check_levels
from dmformer_keras.layers.block import DMFormerBlock, check_layer_scale, check_mlp_ratio
from dmformer_keras.layers.common import (
    batch_norm,
    channel_axis,
    refuse_quantize,
    spatial_axes,
    spatial_initializer,
    standard_data_format,
)
from dmformer_keras.layers.convolution import Convolution
from dmformer_keras.presets import Preset, list_presets, load_backbone, save_backbone
from dmformer_keras.type_names import InputShape, Levels, PathLike

PYRAMID_LEVELS = ("P2", "P3", "P4", "P5")
# What is larger is a slip: it would be built for hours, or fill the memory.
MOST_CHANNELS = 8192
MOST_BLOCKS = 100
MOST_SIDE = 2**16
MOST_PARAMETERS = 2**28  # six times those of DMFormer-L, 1 GB


class _ClassProperty:
    """A read-only property of the class itself."""

    def __init__(self, getter):
        self.getter = getter

    def __get__(self, instance, owner):
        return self.getter()


@keras.saving.register_keras_serializable(package="dmformer_keras")
class DMFormerBackbone(keras.Model):
    """The DMFormer feature extractor, a functional model from images to a feature pyramid.

    A stem brings the image to stride 4; four stages of `DMFormerBlock`s work at
    strides 4, 8, 16 and 32, with a 2x2 convolution of stride 2 and a BatchNorm
    between them. The output is the last stage's feature map, which is also the
    pyramid's P5.

    Source: the paper's four-stage hierarchy and its stem (7x7 stride 2, 3x3
    stride 1, non-overlapping 2x2 stride 2). This project's decisions: BatchNorm
    and ReLU after the first two stem convolutions, BatchNorm after the third,
    the convolution between stages, "same" padding everywhere (a feature map of
    stride `s` has `ceil(size / s)` rows), and the rescaling of the input.

    Args:
        channels: four positive ints. Channels of each stage.
        depths: four positive ints. Number of blocks in each stage.
        levels, gate_reduction, use_gate, inner_residual: as in
            `dmformer_keras.layers.DynamicMultilevelAttention`.
        mlp_ratio: int or float. Hidden channels of a block's MLP over its channels.
        activation: name of the Keras activation of the MLPs.
        stochastic_depth: float in `[0, 1)`. Probability of dropping the residual
            branches of the last block; it rises linearly from 0 at the first.
        layer_scale: float or `None`. Initial value of LayerScale; `None` leaves it out.
        gradient_checkpointing: the stages, such as `(1, 2)`, whose activations training
            computes again in the backward pass instead of keeping them: less memory, more
            time, the same gradients. `True` for all four, `False` for none. The first
            stages hold the most. Presets do not keep it.
        output_stride: 32, 16 or 8. Below 32 the last stages keep their resolution
            and dilate their convolutions instead, with the same weights.
        include_rescaling: bool. Whether the model rescales its input from 0..255
            to -1..1. `False` means that the caller passes -1..1.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` for
            channels_first. Height and width may be `None` (any size); otherwise they
            are at least 32 pixels. Any number of channels. `None` means any size, RGB.
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's setting.
        dtype: dtype policy of the layers, such as `"mixed_bfloat16"`.
        name: str or `None`. The model's name.
        trainable: bool. Whether the weights, and the BatchNorm statistics, change in training.

    Input: float images of `input_shape`, values in 0..255 (see `include_rescaling`).
    Output: `(batch, ceil(height / 32), ceil(width / 32), channels[3])`.

    Raises:
        DMFormerError: if an argument is invalid.

    Examples:

    >>> import numpy as np
    >>> backbone = DMFormerBackbone(channels=(8, 16, 24, 32), depths=(1, 1, 1, 1))
    >>> images = np.random.default_rng(0).uniform(0, 255, (1, 64, 96, 3)).astype("float32")
    >>> tuple(backbone(images).shape)
    (1, 2, 3, 32)

    The feature pyramid, as a model:

    >>> pyramid = keras.Model(backbone.input, backbone.pyramid_outputs)
    >>> tuple(pyramid(images)["P2"].shape)
    (1, 16, 24, 8)
    >>> backbone.feature_info["P5"]
    {'channels': 32, 'stride': 32}
    """

    # What the stages are made of; a subclass puts blocks of another mixer here.
    block_class = DMFormerBlock

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        levels: Levels = DEFAULT_LEVELS,
        gate_reduction: int = 4,
        use_gate: bool = True,
        inner_residual: bool = True,
        mlp_ratio: float = 4,
        activation: str = "gelu",
        stochastic_depth: float = 0.0,
        layer_scale: float | None = None,
        gradient_checkpointing: bool | Sequence[int] = False,
        output_stride: int = 32,
        include_rescaling: bool = True,
        input_shape: InputShape | None = None,
        data_format: str | None = None,
        dtype: Any = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        config = {
            "channels": _four_positive_ints("channels", channels, MOST_CHANNELS),
            "depths": _four_positive_ints("depths", depths, MOST_BLOCKS),
            "levels": check_levels(levels),
            "gate_reduction": check_positive_int("gate_reduction", gate_reduction),
            "use_gate": check_bool("use_gate", use_gate),
            "inner_residual": check_bool("inner_residual", inner_residual),
            "mlp_ratio": check_mlp_ratio(mlp_ratio),
            "activation": check_activation(activation),
            "stochastic_depth": check_rate("stochastic_depth", stochastic_depth),
            "layer_scale": check_layer_scale(layer_scale),
            "gradient_checkpointing": check_stages(
                "gradient_checkpointing", gradient_checkpointing
            ),
            "output_stride": _check_output_stride(output_stride),
            "include_rescaling": check_bool("include_rescaling", include_rescaling),
            "data_format": standard_data_format(data_format),
        }
        config["input_shape"] = check_input_shape(input_shape, config["data_format"])
        check_name(name)
        check_bool("trainable", trainable)
        policy = checked_policy(dtype)
        _check_parameters(config)

        inputs = keras.Input(config["input_shape"], name="images")
        outputs = _build_graph(inputs, config, policy, self.block_class)
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        if not trainable:
            self.trainable = False
        self.dtype_policy = policy
        self._constructor_config = config

    @property
    def data_format(self) -> str:
        """`"channels_last"` or `"channels_first"`."""
        return self._constructor_config["data_format"]

    @property
    def output_stride(self) -> int:
        """Pixels of the input for one step of the output: 32, 16 or 8."""
        return self._constructor_config["output_stride"]

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """`{level: name of the layer whose output is that level}`, as KerasCV reads it."""
        depths = self._constructor_config["depths"]
        return {
            level: _block_name(stage, depths[stage] - 1)
            for stage, level in enumerate(PYRAMID_LEVELS)
        }

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """`{"P2": KerasTensor, ..., "P5": KerasTensor}`: the output of each stage."""
        return {
            level: self.get_layer(name).output for level, name in self.pyramid_level_inputs.items()
        }

    @property
    def feature_info(self) -> dict[str, dict[str, int]]:
        """`{level: {"channels": int, "stride": int}}` for each level of the pyramid.

        The stride is the true one: with `output_stride=16`, P5 has stride 16.
        """
        channels = self._constructor_config["channels"]
        return {
            level: {
                "channels": channels[stage],
                "stride": min(2 ** (stage + 2), self.output_stride),
            }
            for stage, level in enumerate(PYRAMID_LEVELS)
        }

    @property
    def embedding_dims(self) -> list[int]:
        """Channels of each pyramid level, as KerasCV's SegFormer reads them."""
        return list(self._constructor_config["channels"])

    def pooled_features(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """Gives features for a dense layer: the output for images, normalized and pooled.

        The output itself is the sum of a stage's blocks, and some of its channels vary twenty
        times as much as others: a dense layer learns slowly on it, even pooled. A BatchNorm,
        made anew by each call, brings the channels to one scale, as `DMFormerClassifier`'s head
        does; it learns also where the backbone is frozen.

        Args:
            images: symbolic tensor of a functional model, such as `keras.Input` gives.

        Returns:
            Symbolic tensor (batch, channels[3]).

        Example:

        >>> backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(64, 64, 3))
        >>> inputs = keras.Input((64, 64, 3))
        >>> model = keras.Model(inputs, keras.layers.Dense(5)(backbone.pooled_features(inputs)))
        >>> model.output.shape
        (None, 5)
        """
        x = batch_norm(None, self.data_format, self.dtype_policy)(self(images))
        pool = keras.layers.GlobalAveragePooling2D(
            data_format=self.data_format, dtype=self.dtype_policy
        )
        return pool(x)

    # {name: metadata} of every preset that this installation holds.
    presets: ClassVar[dict[str, dict[str, Any]]] = _ClassProperty(list_presets)  # type: ignore

    @classmethod
    def from_preset(
        cls, preset: PathLike | Preset, load_weights: bool | None = None, **overrides: Any
    ) -> Self:
        """Builds the backbone of a preset, with its weights where it has some.

        Args:
            preset: str or path. A built-in name (see `DMFormerBackbone.presets`) or
                a folder written by `save_to_preset`.
            load_weights: bool or `None`. `True` demands weights, `False` leaves
                them out, `None` loads them where the preset has some.
            **overrides: any argument of `DMFormerBackbone`. Weights follow a new
                `input_shape`, `output_stride`, `dtype` or `data_format` unchanged;
                for another number of input channels the first convolution is
                adapted so that a replicated grey image gives an unchanged output.

        Returns:
            A `DMFormerBackbone` (of the class the method is called on).

        Raises:
            DMFormerError: if the preset is unknown, has no readable config, its
                weights are altered, or the overrides do not fit its weights.

        Example:

        >>> backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(64, 64, 1))
        >>> backbone.output.shape
        (None, 2, 2, 192)
        """
        return load_backbone(cls, preset, load_weights=load_weights, overrides=overrides)

    def save_to_preset(self, folder: PathLike, **metadata: Any) -> None:
        """Writes config, weights and metadata to a folder that `from_preset` reads.

        Args:
            folder: str or path. Made if absent; a preset already there is replaced.
            **metadata: JSON values to store beside the sizes and the checksum, such
                as `description`.

        Raises:
            DMFormerError: if the folder cannot be written.
        """
        save_backbone(self, folder, metadata)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: Keras quantizes dense layers only, and could not load what it saves."""
        refuse_quantize()

    def get_config(self) -> dict[str, Any]:
        return {
            **self._constructor_config,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


def _build_graph(inputs, config, policy, block_class):
    """Returns the last feature map of the architecture that `config` describes."""
    convolution = _ConvolutionFactory(config["data_format"], policy)
    channels, depths = config["channels"], config["depths"]
    x = inputs
    if config["include_rescaling"]:
        # One scale for every channel: the model stays the same function of a
        # grey image whether it comes in one channel or replicated in three.
        x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype=policy, name="rescaling")(x)
    x = convolution(x, channels[0], 7, "stem1", stride=2, relu=True)
    x = convolution(x, channels[0], 3, "stem2", relu=True)
    x = convolution(x, channels[0], 2, "stem3", stride=2)

    rates = _linear_rates(config["stochastic_depth"], sum(depths))
    stride, dilation = 4, 1
    for stage in range(4):
        if stage > 0:
            strided = stride < config["output_stride"]
            x = convolution.downsample(
                x, channels[stage], f"stage{stage + 1}_downsample", strided, dilation
            )
            stride, dilation = (stride * 2, dilation) if strided else (stride, dilation * 2)
        for block in range(depths[stage]):
            x = block_class(
                levels=[(kernel, rate * dilation) for kernel, rate in config["levels"]],
                gate_reduction=config["gate_reduction"],
                use_gate=config["use_gate"],
                inner_residual=config["inner_residual"],
                mlp_ratio=config["mlp_ratio"],
                activation=config["activation"],
                stochastic_depth=next(rates),
                layer_scale=config["layer_scale"],
                gradient_checkpointing=stage + 1 in config["gradient_checkpointing"],
                data_format=config["data_format"],
                dtype=policy,
                name=_block_name(stage, block),
            )(x)
    return x


class _ConvolutionFactory:
    """Makes Conv2D, BatchNorm and, where asked for, ReLU, in one data format and dtype."""

    def __init__(self, data_format, policy):
        self.data_format = data_format
        self.policy = policy

    def __call__(self, x, filters, kernel_size, name, stride=1, relu=False):
        x = self._convolution(filters, kernel_size, name, strides=stride, padding="same")(x)
        x = batch_norm(f"{name}_norm", self.data_format, self.policy)(x)
        return keras.layers.ReLU(dtype=self.policy, name=f"{name}_relu")(x) if relu else x

    def downsample(self, x, filters, name, strided, dilation):
        """The 2x2 convolution between stages, of stride 2 or in its dilated form.

        Where the stride is given up, the taps keep the places that they had on the
        coarser grid: this one and the next, `dilation` steps to the right and below
        ("same" padding would put them around this one).
        """
        if strided:
            return self(x, filters, 2, name, stride=2)
        x = keras.layers.ZeroPadding2D(
            ((0, dilation), (0, dilation)),
            data_format=self.data_format,
            dtype=self.policy,
            name=f"{name}_padding",
        )(x)
        x = self._convolution(filters, 2, name, dilation_rate=dilation)(x)
        return batch_norm(f"{name}_norm", self.data_format, self.policy)(x)

    def _convolution(self, filters, kernel_size, name, **arguments):
        return Convolution(
            filters,
            kernel_size,
            use_bias=False,
            data_format=self.data_format,
            kernel_initializer=spatial_initializer(),
            dtype=self.policy,
            name=f"{name}_conv",
            **arguments,
        )


def _block_name(stage, block):
    return f"stage{stage + 1}_block{block + 1}"


def _linear_rates(last, count):
    """Yields `count` stochastic depth rates from 0 to `last`."""
    for index in range(count):
        yield last * index / max(count - 1, 1)


def _four_positive_ints(name, values, most):
    values = values if isinstance(values, (list, tuple)) else (values,)
    if len(values) != 4 or not all(is_positive_int(value) for value in values):
        raise DMFormerError(
            f"{name} must be four positive integers, one for each stage, not {shown(values)}."
        )
    return tuple(check_positive_int(name, value, most) for value in values)


def _check_parameters(config):
    """Refuses sizes whose product no one means, before anything is built."""
    channels, levels = config["channels"], config["levels"]
    axis = channel_axis(config["data_format"]) - 1
    first = channels[0]
    # The convolutions' kernels, and of each channel some ten weights more.
    count = 49 * config["input_shape"][axis] * first + 13 * first**2
    count += sum(4 * one * two for one, two in itertools.pairwise(channels))
    for width, depth in zip(channels, config["depths"], strict=True):
        mixing = sum(kernel**2 for kernel, _ in levels) + 10
        count += depth * width * ((2 * len(levels) + 1 + 2 * config["mlp_ratio"]) * width + mixing)
    if count > MOST_PARAMETERS:
        raise DMFormerError(
            f"channels, depths, levels and mlp_ratio make a backbone of about {count:,.0f} "
            f"weights, and at most {MOST_PARAMETERS:,} are built; choose smaller ones."
        )


def _check_output_stride(output_stride):
    if not is_positive_int(output_stride) or output_stride not in (8, 16, 32):
        raise DMFormerError(f"output_stride must be 8, 16 or 32, not {shown(output_stride)}.")
    return int(output_stride)


def check_input_shape(input_shape, data_format):
    """Returns `input_shape` as a tuple, or raises if a DMFormer cannot take it."""
    layout = "(height, width, channels)"
    if data_format == "channels_first":
        layout = "(channels, height, width)"
    if input_shape is None:
        return (None, None, 3) if data_format == "channels_last" else (3, None, None)
    shape = input_shape if isinstance(input_shape, (list, tuple)) else (input_shape,)
    if len(shape) != 3 or not is_positive_int(shape[channel_axis(data_format) - 1]):
        raise DMFormerError(
            f"input_shape must be {layout} with a known number of channels, such as "
            f"{'(224, 224, 3)' if data_format == 'channels_last' else '(3, 224, 224)'}, "
            f"not {shown(input_shape)}."
        )
    shape = tuple(shape)
    for axis in spatial_axes(data_format):
        size = shape[axis - 1]
        fits = is_positive_int(size) and MINIMUM_SIZE <= size <= MOST_SIDE
        if size is not None and not fits:
            raise DMFormerError(
                f"input_shape {shown(shape)} has a side of {shown(size)} pixels, but height and "
                f"width must be at least {MINIMUM_SIZE} and at most {MOST_SIDE} (or None for any "
                "size); resize the images."
            )
    return tuple(size if size is None else int(size) for size in shape)
