"""DMFormerN/T/S/B/L: DMFormer image classifiers as functional Keras models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import keras

from dmformer_keras import presets
from dmformer_keras.architectures import ARCHITECTURES
from dmformer_keras.backbone import MOST_PARAMETERS, DMFormerBackbone
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.layers.common import (
    batch_norm,
    channel_axis,
    pointwise_initializer,
    refuse_quantize,
)
from dmformer_keras.task_model import TaskModel, check_backbone, check_head, checked_class_names
from dmformer_keras.task_table import register_task
from dmformer_keras.type_names import InputShape, PathLike

DEFAULT_NUM_CLASSES = 1000
DEFAULT_SIZE = 224


@keras.saving.register_keras_serializable(package="dmformer_keras")
@register_task("classify")
class DMFormerClassifier(TaskModel):
    """A backbone with a classification head, a functional model from images to logits.

    The head is BatchNorm, global average pooling, dropout and a dense layer. The
    BatchNorm (this project's decision) ends the last residual stream, as every
    pre-norm network does before its classifier.

    Args:
        backbone: a `DMFormerBackbone`.
        num_classes: positive int. 1 is for two classes, as binary cross-entropy trains them:
            the output speaks for the second.
        dropout: float in `[0, 1)`. Dropout before the dense layer.
        activation: name of a Keras activation for the outputs, such as `"softmax"`,
            or `None` for logits.
        class_names: sequence of `num_classes` strings, kept with the model, or `None`; of one
            output the name of the second class, or of both.
        name: str or `None`. The model's name.
        trainable: bool. Whether the weights, and the BatchNorm statistics, change in training.

    Input: the backbone's. Output: `(batch, num_classes)`.

    Raises:
        DMFormerError: if an argument is invalid.

    Example:

    >>> backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(64, 64, 3))
    >>> model = DMFormerClassifier(backbone, num_classes=3, class_names=["cat", "dog", "owl"])
    >>> model.output.shape
    (None, 3)
    """

    head_arguments = ("num_classes", "dropout", "activation", "class_names")

    def __init__(
        self,
        backbone: DMFormerBackbone,
        num_classes: int,
        dropout: float = 0.0,
        activation: str | None = None,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        check_backbone(backbone)
        check_head(num_classes, dropout, activation, name, trainable)
        dropout = float(dropout)  # JSON takes no number of NumPy's
        names = checked_class_names(class_names, num_classes)
        num_classes = int(num_classes)
        width = backbone.output.shape[channel_axis(backbone.data_format)]
        if width * num_classes > MOST_PARAMETERS:
            raise DMFormerError(
                f"num_classes={num_classes} on {width} channels make more weights than the "
                f"{MOST_PARAMETERS:,} that are built; choose a smaller backbone, or fewer classes."
            )
        policy = backbone.dtype_policy
        head = keras.Sequential(
            [
                batch_norm("head_norm", backbone.data_format, policy),
                keras.layers.GlobalAveragePooling2D(
                    data_format=backbone.data_format, dtype=policy, name="pool"
                ),
                keras.layers.Dropout(dropout, dtype=policy, name="dropout"),
                keras.layers.Dense(
                    num_classes,
                    activation=activation,
                    kernel_initializer=pointwise_initializer(),
                    dtype=policy,
                    name="logits",
                ),
            ],
            name="head",
        )
        # Also where `quantize` of a model around this one reaches it.
        head.layers[-1].quantize = refuse_quantize
        inputs = backbone.input
        outputs = head(backbone(inputs))
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        if not trainable:  # passed on as True, it would thaw a frozen backbone
            self.trainable = False
        self.dtype_policy = policy
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes
        self.dropout = dropout
        self.activation = activation
        self.class_names = names

    @classmethod
    def from_preset(
        cls,
        preset: PathLike | presets.Preset,
        load_weights: bool | None = None,
        num_classes: int | None = None,
        dropout: float | None = None,
        activation: str | None = None,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        load_head: bool = True,
        **backbone_overrides: Any,
    ) -> Self:
        """Builds a classifier from a preset, with its weights where it has some.

        Args:
            preset: str or path. A built-in name, or a folder written by `save_to_preset`
                of a classifier or of a backbone.
            load_weights: as in `DMFormerBackbone.from_preset`.
            num_classes: positive int, or `None` for the preset's (1,000 if it has none).
                With another number than the preset's, the head starts at random.
            dropout, activation, class_names: as in the constructor; `None` keeps the
                preset's.
            name: str or `None`. The model's name.
            load_head: bool. `False` starts the head at random.
            **backbone_overrides: any argument of `DMFormerBackbone`.

        Returns:
            A classifier of this class, or of the registered subclass that wrote the preset.

        Raises:
            DMFormerError: the preset holds a head of another class and `num_classes` is not
                given, or as `DMFormerBackbone.from_preset`.

        Example:

        >>> model = DMFormerClassifier.from_preset(
        ...     "dmformer_n", num_classes=10, input_shape=(64, 64, 1)
        ... )
        >>> model.input.shape, model.output.shape
        ((None, 64, 64, 1), (None, 10))
        """
        preset = presets.read_preset(preset)
        cls = presets.class_to_build(cls, preset, num_classes)
        stored = presets.stored_head(preset, cls)
        stored_classes = stored.get("num_classes", DEFAULT_NUM_CLASSES)
        if num_classes is not None and num_classes != stored_classes and class_names is None:
            stored = {**stored, "class_names": None}
        given = {
            "num_classes": stored_classes if num_classes is None else num_classes,
            "dropout": stored.get("dropout", 0.0) if dropout is None else dropout,
            "activation": stored.get("activation") if activation is None else activation,
            "class_names": stored.get("class_names") if class_names is None else class_names,
            "name": name,
        }
        return presets.load_task(
            cls, DMFormerBackbone, preset, load_weights, given, backbone_overrides, load_head
        )


def _classifier(
    preset, input_shape=None, num_classes=None, weights=None, *, name=None, **overrides
):
    if "include_top" in overrides:
        raise DMFormerError(
            "include_top is an argument of keras.applications; for the model without its head use "
            f'dmformer_keras.DMFormerBackbone.from_preset("{preset}").'
        )
    architecture = presets.read_preset(preset)
    if weights is not None:
        source = presets.read_preset(weights)
        for key in ("channels", "depths"):
            found = source.config.get(key)
            found = tuple(found) if isinstance(found, list | tuple) else found
            if found != tuple(architecture.config[key]):
                raise DMFormerError(
                    f"The weights {source.name!r} have {key} {shown(found)}, but "
                    f"{architecture.name} has {shown(architecture.config[key])}; choose weights "
                    "of this variant, or the variant of these weights."
                )
        preset = weights
        overrides.setdefault("load_weights", True)
    if input_shape is None and weights is None:
        channels_last = (overrides.get("data_format") or keras.config.image_data_format()) == (
            "channels_last"
        )
        size = (DEFAULT_SIZE, DEFAULT_SIZE)
        input_shape = (*size, 3) if channels_last else (3, *size)
    if input_shape is not None:
        overrides["input_shape"] = input_shape
    return DMFormerClassifier.from_preset(
        preset, num_classes=num_classes, name=name or architecture.name, **overrides
    )


_DOCSTRING = """A DMFormer-{letter} image classifier, a functional Keras model with logits out.

    {description}

    Args:
        input_shape: `(height, width, channels)`; height and width at least 32 pixels or
            `None` for any size; any number of channels. `None` means the weights' own
            shape, or `(224, 224, 3)`.
        num_classes: positive int. `None` means the weights' own number, or 1,000.
        weights: `None` for random ones, or the name or folder of a preset with weights.
        **kwargs: `name`, `dropout`, `activation`, `class_names` of `DMFormerClassifier`, and any
            argument of `DMFormerBackbone`.

    Returns:
        A `DMFormerClassifier`: images in 0..255 to logits `(batch, num_classes)`.

    Raises:
        DMFormerError: if an argument is invalid, or the weights are unknown, altered, or
            of another variant.

    Example:

    >>> model = DMFormer{letter}(input_shape=(64, 96, 3), num_classes=10)
    >>> model.output.shape
    (None, 10)
    """


class _Variant(Protocol):
    def __call__(
        self,
        input_shape: InputShape | None = None,
        num_classes: int | None = None,
        weights: PathLike | None = None,
        **kwargs: Any,
    ) -> DMFormerClassifier: ...


def _variant(letter: str) -> _Variant:
    preset = f"dmformer_{letter.lower()}"

    def build(
        input_shape: InputShape | None = None,
        num_classes: int | None = None,
        weights: PathLike | None = None,
        **kwargs: Any,
    ) -> DMFormerClassifier:
        return _classifier(preset, input_shape, num_classes, weights, **kwargs)

    build.__name__ = build.__qualname__ = f"DMFormer{letter}"
    build.__doc__ = _DOCSTRING.format(
        letter=letter, description=ARCHITECTURES[preset]["metadata"]["description"]
    )
    return build


DMFormerN = _variant("N")
DMFormerT = _variant("T")
DMFormerS = _variant("S")
DMFormerB = _variant("B")
DMFormerL = _variant("L")
