"""SemanticFPN and UPerNet: semantic segmentation on any backbone with a pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import keras

from dmformer_keras import presets
from dmformer_keras.backbone import PYRAMID_LEVELS, DMFormerBackbone
from dmformer_keras.checks import check_positive_int
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.layers.common import batch_norm, channel_axis, spatial_initializer
from dmformer_keras.layers.convolution import Convolution
from dmformer_keras.layers.pooling import PartAverages
from dmformer_keras.layers.resizing import ResizeLike
from dmformer_keras.task_model import TaskModel, check_head, checked_class_names
from dmformer_keras.task_table import register_task
from dmformer_keras.type_names import PathLike, Tensor

NORMALIZATIONS = ("batch", "group")
POOLED_SIZES = (1, 2, 3, 6)
MOST_HEAD_CHANNELS = 1024
# Kirillov et al. 2019 and Wu and He 2018.
_GROUPS = 32


class Segmenter(TaskModel):
    """What all segmentation heads share: the pyramid before them, the resizing after, presets.

    A head is a subclass with `paper`, its default arguments, and the static method
    `decode(build, pyramid, strides)`. It returns the features that the last convolution makes
    logits of, from `pyramid`, the feature maps `{"P2": KerasTensor, ...}`, and `strides`, a list
    of their strides. `build` makes layers of the head's width, norm, data format and dtype; see
    `SemanticFPN`. `dmformer_keras.task_table.register_task` makes the head known to recipes.
    """

    head_arguments = (
        "num_classes",
        "head_channels",
        "normalization",
        "dropout",
        "activation",
        "class_names",
        "class_colors",
    )
    # The papers' own width, norm and dropout of a head.
    paper: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        head_channels: int | None = None,
        normalization: str | None = None,
        dropout: float | None = None,
        activation: str | None = None,
        class_names: Sequence[str] | None = None,
        class_colors: Sequence[Sequence[int]] | None = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        chosen = {
            "head_channels": head_channels,
            "normalization": normalization,
            "dropout": dropout,
        }
        given = self.paper | {key: value for key, value in chosen.items() if value is not None}
        check_head(num_classes, given["dropout"], activation, name, trainable)
        given["dropout"] = float(given["dropout"])  # JSON takes no number of NumPy's
        check_positive_int("head_channels", given["head_channels"], MOST_HEAD_CHANNELS)
        known = isinstance(given["normalization"], str)
        if not known or given["normalization"] not in NORMALIZATIONS:
            raise DMFormerError(
                f'normalization must be "batch" or "group", not {shown(normalization)}.'
            )
        names = checked_class_names(class_names, num_classes)
        colors = _checked_colors(class_colors, num_classes)
        pyramid = pyramid_outputs(backbone)
        data_format = getattr(backbone, "data_format", None) or keras.config.image_data_format()
        policy = backbone.dtype_policy
        build = _Blocks(given["head_channels"], given["normalization"], data_format, policy)
        features = [
            keras.Input(batch_shape=level.shape, dtype=level.dtype, name=f"{key.lower()}_features")
            for key, level in pyramid.items()
        ]
        x = self.decode(build, dict(zip(pyramid, features, strict=True)), _strides(backbone))
        x = keras.layers.Dropout(given["dropout"], dtype=policy, name="dropout")(x)
        head = keras.Model(features, build.classifier(int(num_classes))(x), name="head")

        inputs = backbone.input
        extractor = keras.Model(inputs, list(pyramid.values()), name="pyramid")
        outputs = build.resize("logits_at_full_size")([head(extractor(inputs)), inputs])
        if activation not in (None, "linear"):
            outputs = _Activation(activation, data_format, dtype=policy, name="activation")(outputs)
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        if not trainable:  # passed on as True, it would thaw a frozen backbone
            self.trainable = False
        self.dtype_policy = policy
        self.backbone = backbone
        self.head = head
        self.data_format = data_format
        self.num_classes = int(num_classes)
        self.head_channels = int(given["head_channels"])
        self.normalization = given["normalization"]
        self.dropout = given["dropout"]
        self.activation = activation
        self.class_names = names
        self.class_colors = colors

    @classmethod
    def from_preset(
        cls,
        preset: PathLike | presets.Preset,
        load_weights: bool | None = None,
        num_classes: int | None = None,
        name: str | None = None,
        load_head: bool = True,
        **overrides: Any,
    ) -> Self:
        """Builds a segmenter from a preset, with its weights where it has some.

        Args:
            preset: str or path. A built-in name, or a folder written by `save_to_preset`
                of this class, of a classifier or of a backbone: of the latter two the
                backbone is taken.
            load_weights: as in `DMFormerBackbone.from_preset`.
            num_classes: positive int, or `None` for the preset's. With another number
                than the preset's, or another `head_channels` or `normalization`, the head
                starts at random.
            name: str or `None`. The model's name.
            load_head: bool. `False` starts the head at random.
            **overrides: any argument of this class, `None` for the preset's, or of
                `DMFormerBackbone`.

        Returns:
            A segmenter of this class, or of the registered subclass that wrote the preset.

        Raises:
            DMFormerError: if the preset has no head of this class and `num_classes` is
                not given, or as `DMFormerBackbone.from_preset`.

        Example:

        >>> model = SemanticFPN.from_preset(
        ...     "dmformer_n", num_classes=4, head_channels=16, input_shape=(64, 96, 3)
        ... )
        >>> model.output.shape
        (None, 64, 96, 4)
        """
        preset = presets.read_preset(preset)
        cls = presets.class_to_build(cls, preset, num_classes)
        stored = presets.stored_head(preset, cls)
        if num_classes is None and not stored:
            raise DMFormerError(
                f"{preset.name!r} holds no {cls.__name__}: give num_classes to put a new head on "
                "its backbone."
            )
        given = {key: overrides.pop(key) for key in cls.head_arguments if key in overrides}
        given = {key: value for key, value in given.items() if value is not None}
        if num_classes is not None:
            if num_classes != stored.get("num_classes"):
                given = {"class_names": None, "class_colors": None, **given}
            given["num_classes"] = num_classes
        given["name"] = name
        return presets.load_task(
            cls, DMFormerBackbone, preset, load_weights, given, overrides, load_head
        )


_ARGUMENTS = """Args:
        backbone: a `DMFormerBackbone`, or any functional backbone with the levels P2 to P5:
            KerasHub's feature pyramid backbones and KerasCV's.
        num_classes: positive int.
        head_channels: positive int, the width of the head, or `None` for {head_channels}.
        normalization: `"batch"`, `"group"` (32 groups), or `None` for {normalization}.
        dropout: float in `[0, 1)`, before the last convolution, or `None` for {dropout}.
        activation: name of a Keras activation over the classes, such as `"softmax"`,
            or `None` for logits.
        class_names: sequence of `num_classes` strings, kept with the model, or `None`.
        class_colors: sequence of `num_classes` `(r, g, b)` in 0..255, for drawings, or `None`.
        name: str or `None`. The model's name.
        trainable: bool. Whether the weights, and the norms' statistics, change in training.

    Input: the backbone's, of any height and width that it takes.
    Output: `(batch, height, width, num_classes)`, or channels_first like the backbone's.

    Raises:
        DMFormerError: if an argument is invalid, or the backbone has no such pyramid."""


def _with_arguments(cls):
    defaults = {**cls.paper, "normalization": f'`"{cls.paper["normalization"]}"`'}
    cls.__doc__ = cls.__doc__.replace("{arguments}", _ARGUMENTS.format(**defaults))
    return cls


@keras.saving.register_keras_serializable(package="dmformer_keras")
@register_task("segment", recipe_name="semantic_fpn")
@_with_arguments
class SemanticFPN(Segmenter):
    """A backbone with the Semantic FPN head, a functional model from images to logits.

    A feature pyramid network: a 1x1 convolution of each level, to which the coarser level
    is added from the top down (nearest), then a 3x3 convolution. Each level then comes
    to the finest one's size by steps of a 3x3 convolution, a norm, ReLU and 2x bilinear
    upsampling, in half the width; the levels are added, and a 1x1 convolution gives the
    logits, which are resized to the image.

    Source: Kirillov et al. 2019, "Panoptic Feature Pyramid Networks", semantic branch:
    256 channels, 128 in the branch, group norm. `normalization="batch"` is what
    mmsegmentation's recipes train with; `dmformer_keras.fuse` folds it away. Where a
    size is no multiple of the stride, each step resizes to the next finer level's size
    (this project's decision).

    {arguments}

    Example:

    >>> backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(None, None, 3))
    >>> model = SemanticFPN(backbone, num_classes=11, head_channels=64)
    >>> import numpy as np
    >>> tuple(model(np.zeros((1, 45, 70, 3), "float32")).shape)
    (1, 45, 70, 11)
    """

    paper: ClassVar = {"head_channels": 256, "normalization": "group", "dropout": 0.0}

    @staticmethod
    def decode(build: Any, pyramid: dict[str, Tensor], strides: dict[str, int]) -> Tensor:
        top_down, coarser = {}, None
        for key in reversed(PYRAMID_LEVELS):
            x = build.convolution(1, f"{key.lower()}_lateral")(pyramid[key])
            if coarser is not None:
                above = build.resize(f"{key.lower()}_from_above", "nearest")([coarser, x])
                x = keras.layers.Add(dtype=build.policy, name=f"{key.lower()}_sum")([x, above])
            top_down[key] = coarser = x
        half = max(build.channels // 2, 1)
        branches = []
        for index, key in enumerate(PYRAMID_LEVELS):
            x = build.convolution(3, f"{key.lower()}_output")(top_down[key])
            # One step for the finest level, without upsampling.
            finer = [top_down[PYRAMID_LEVELS[step]] for step in reversed(range(index))]
            steps = [level for level, stride in zip(finer, _finer(strides, index), strict=True)
                     if stride] or [None]  # fmt: skip
            for step, level in enumerate(steps, 1):
                name = f"{key.lower()}_branch{step}"
                x = build.normalized(3, name, half)(x)
                if level is not None:
                    x = build.resize(f"{name}_upsampling")([x, level])
            branches.append(x)
        return keras.layers.Add(dtype=build.policy, name="branches_sum")(branches)


@keras.saving.register_keras_serializable(package="dmformer_keras")
@register_task("segment", recipe_name="upernet")
@_with_arguments
class UPerNet(Segmenter):
    """A backbone with the UPerNet head, a functional model from images to logits.

    Pyramid pooling on the coarsest level (averages over 1, 2 x 2, 3 x 3 and 6 x 6 parts,
    each through a 1x1 convolution and back, beside the level itself, then a 3x3
    convolution); a feature pyramid network from there; its four levels at the finest one's
    size, concatenated and fused by a 3x3 convolution; a 1x1 convolution gives the logits,
    which are resized to the image. Each convolution but the last has a norm and ReLU.

    Source: Xiao et al. 2018, "Unified Perceptual Parsing for Scene Understanding", the
    semantic head: 512 channels, BatchNorm, bilinear upsampling. The auxiliary loss that
    mmsegmentation adds on P4 is left out (this project's decision).

    {arguments}

    Example:

    >>> backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(None, None, 3))
    >>> model = UPerNet(backbone, num_classes=11, head_channels=64)
    >>> import numpy as np
    >>> tuple(model(np.zeros((1, 45, 70, 3), "float32")).shape)
    (1, 45, 70, 11)
    """

    paper: ClassVar = {"head_channels": 512, "normalization": "batch", "dropout": 0.1}

    @staticmethod
    def decode(build: Any, pyramid: dict[str, Tensor], strides: dict[str, int]) -> Tensor:
        coarsest = pyramid["P5"]
        pooled = [coarsest]
        for size in POOLED_SIZES:
            x = PartAverages(size, build.data_format, dtype=build.policy, name=f"pool{size}")(
                coarsest
            )
            x = build.normalized(1, f"pool{size}_projection")(x)
            pooled.append(build.resize(f"pool{size}_upsampling")([x, coarsest]))
        x = build.concatenate("pools")(pooled)
        coarser = build.normalized(3, "p5_output")(x)
        outputs = [coarser]
        for key in reversed(PYRAMID_LEVELS[:-1]):
            x = build.normalized(1, f"{key.lower()}_lateral")(pyramid[key])
            above = build.resize(f"{key.lower()}_from_above")([coarser, x])
            coarser = keras.layers.Add(dtype=build.policy, name=f"{key.lower()}_sum")([x, above])
            outputs.append(build.normalized(3, f"{key.lower()}_output")(coarser))
        finest = outputs.pop()
        resized = [
            build.resize(f"p{5 - index}_upsampling")([x, finest]) for index, x in enumerate(outputs)
        ]
        return build.normalized(3, "fusion")(build.concatenate("levels")([finest, *resized[::-1]]))


class _Blocks:
    """Makes the layers of a head, in one width, norm, data format and dtype."""

    def __init__(self, channels, normalization, data_format, policy):
        self.channels = channels
        self.normalization = normalization
        self.data_format = data_format
        self.policy = policy

    def convolution(self, kernel_size, name, filters=None, use_bias=True):
        return Convolution(
            filters or self.channels,
            kernel_size,
            padding="same",
            use_bias=use_bias,
            data_format=self.data_format,
            kernel_initializer=spatial_initializer(),
            dtype=self.policy,
            name=f"{name}_conv",
        )

    def normalized(self, kernel_size, name, filters=None):
        """Returns a function: convolution, norm and ReLU."""
        filters = filters or self.channels
        layers = (
            self.convolution(kernel_size, name, filters, use_bias=False),
            self._norm(f"{name}_norm", filters),
            keras.layers.ReLU(dtype=self.policy, name=f"{name}_relu"),
        )

        def call(x):
            for layer in layers:
                x = layer(x)
            return x

        return call

    def classifier(self, num_classes):
        return Convolution(
            num_classes,
            1,
            data_format=self.data_format,
            # Small, so that an untrained head gives every class about the same.
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            dtype=self.policy,
            name="logits",
        )

    def resize(self, name, interpolation="bilinear"):
        return ResizeLike(interpolation, self.data_format, dtype=self.policy, name=name)

    def concatenate(self, name):
        axis = channel_axis(self.data_format)
        return keras.layers.Concatenate(axis, dtype=self.policy, name=name)

    def _norm(self, name, filters):
        if self.normalization == "batch":
            return batch_norm(name, self.data_format, self.policy)
        return keras.layers.GroupNormalization(
            groups=math.gcd(_GROUPS, filters),
            axis=channel_axis(self.data_format),
            epsilon=1e-5,
            dtype=self.policy,
            name=name,
        )


@keras.saving.register_keras_serializable(package="dmformer_keras")
class _Activation(keras.layers.Layer):
    """An activation over the classes: Keras's softmax layer and the like take the last axis."""

    def __init__(self, activation, data_format, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        self.data_format = data_format

    def call(self, inputs):
        activate = keras.activations.get(self.activation)
        if self.data_format == "channels_last":
            return activate(inputs)
        outputs = activate(keras.ops.transpose(inputs, (0, 2, 3, 1)))
        return keras.ops.transpose(outputs, (0, 3, 1, 2))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = {"activation": self.activation, "data_format": self.data_format}
        return {**super().get_config(), **config}


def pyramid_outputs(backbone: keras.Model) -> dict[str, keras.KerasTensor]:
    """Returns the feature maps P2 to P5 of a backbone of this project, KerasHub or KerasCV: a dict,
    `{"P2": KerasTensor, ..., "P5": KerasTensor}`.

    Example:

    >>> backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(64, 96, 3))
    >>> pyramid_outputs(backbone)["P3"].shape
    (None, 8, 12, 48)
    """
    if not isinstance(backbone, keras.Model):
        raise DMFormerError(f"backbone must be a DMFormerBackbone, not {shown(backbone)}.")
    levels = getattr(backbone, "pyramid_outputs", None)
    if levels is None:
        names = getattr(backbone, "pyramid_level_inputs", {})
        levels = {key: backbone.get_layer(name).output for key, name in names.items()}
    missing = [key for key in PYRAMID_LEVELS if key not in levels]
    if missing:
        raise DMFormerError(
            "A segmentation head needs a backbone with the pyramid levels "
            f"{', '.join(PYRAMID_LEVELS)}, and {getattr(backbone, 'name', backbone)!r} has no "
            f"{missing[0]}; give a DMFormerBackbone or another backbone with this pyramid."
        )
    return {key: levels[key] for key in PYRAMID_LEVELS}


def _strides(backbone):
    """Returns the strides of P2 to P5: the true ones where the backbone states them."""
    info = getattr(backbone, "feature_info", None)
    if info:
        return [info[key]["stride"] for key in PYRAMID_LEVELS]
    return [4, 8, 16, 32]


def _finer(strides, index):
    """Tells, from level `index` down to the finest, which steps lead to another stride."""
    return [strides[step] < strides[step + 1] for step in reversed(range(index))]


def _checked_colors(colors, num_classes):
    if colors is None:
        return None
    given = colors
    try:
        colors = [[int(value) for value in color] for color in colors]
        right = len(colors) == num_classes and all(
            len(color) == 3 and all(0 <= value <= 255 for value in color) for color in colors
        )
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        raise DMFormerError(
            f"class_colors must be num_classes={num_classes} colors (r, g, b) in 0..255, not "
            f"{shown(given)}."
        )
    return colors
