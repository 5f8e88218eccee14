"""What every task model here shares: a backbone, a head, and how both are saved."""

from __future__ import annotations

import numbers
import unicodedata
import warnings
from typing import Any, Self

import keras

from dmformer_keras import presets
from dmformer_keras.backbone import DMFormerBackbone
from dmformer_keras.checks import (
    check_activation,
    check_bool,
    check_name,
    check_positive_int,
    check_rate,
    is_text,
)
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.layers.common import refuse_quantize
from dmformer_keras.type_names import PathLike


class TaskModel(keras.Model):
    """A functional model of a `backbone` and a `head`, made from the arguments of the head.

    A subclass names these arguments in `head_arguments`, and keeps each as an attribute.
    """

    head_arguments: tuple[str, ...] = ()
    backbone: DMFormerBackbone
    head: keras.Model
    num_classes: int
    activation: str | None
    class_names: list[str] | None

    def save_to_preset(
        self, folder: PathLike, half_precision: bool = False, **metadata: Any
    ) -> None:
        """Writes backbone, head and metadata to a folder that `from_preset` reads.

        Args:
            folder: str or path. Made if absent; a preset already there is replaced.
            half_precision: bool, store kernels in float16: half the size, and values rounded
                to 11 bits.
            **metadata: JSON values to store beside the sizes and the checksums.

        Raises:
            DMFormerError: if the backbone is none of this project's, or the folder cannot
                be written.
        """
        if not isinstance(self.backbone, DMFormerBackbone):
            raise DMFormerError(
                f"A preset holds a DMFormerBackbone, and this model has a "
                f"{type(self.backbone).__name__}; save it with model.save('model.keras')."
            )
        presets.save_task(self, self._head_config(), folder, metadata, half_precision)

    # Not in `compile`: Keras does not call one of a model's own when it loads the model.
    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as Keras does, and warns of a loss for probabilities where outputs are logits.

        Args:
            *args, **kwargs: as in `keras.Model.fit`.

        Raises:
            DMFormerError: if the model was compiled with `jit_compile=True` under PyTorch.
        """
        if keras.config.backend() == "torch" and getattr(self, "jit_compile", None) is True:
            # Its compiler cannot order the strides of channels_last maps of symbolic sizes
            # (torch 2.13), and stops after minutes in the middle of its own code.
            raise DMFormerError(
                "PyTorch cannot compile a training step of DMFormer; call compile(...) without "
                "jit_compile=True."
            )
        is_linear = getattr(self, "activation", None) in (None, "linear")
        if is_linear and _wants_probabilities(getattr(self, "loss", None)):
            warnings.warn(
                "The model gives logits, and this loss takes them for probabilities: it would "
                "hardly learn; pass a loss with from_logits=True, such as "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True), or build the model "
                'with activation="softmax".',
                stacklevel=2,
            )
        return super().fit(*args, **kwargs)

    def export(
        self, filepath: PathLike, format: str = "tf_saved_model", *args: Any, **kwargs: Any
    ) -> Any:
        """Exports as Keras does, and says where this package has the better file.

        Args:
            filepath, format, *args, **kwargs: as in `keras.Model.export`.
        """
        better = {"litert": "to_tflite", "onnx": "to_onnx"}.get(format)
        if better:
            warnings.warn(
                f"Keras's export does not fuse the model, and neither keeps its class names nor "
                f"compares the file with it; use dmformer_keras.export.{better}(model, path).",
                stacklevel=2,
            )
        return super().export(filepath, format, *args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: Keras quantizes dense layers only, and could not load what it saves."""
        refuse_quantize()

    def _head_config(self):
        return {name: getattr(self, name) for name in self.head_arguments}

    def get_config(self) -> dict[str, Any]:
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **self._head_config(),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        if isinstance(config["backbone"], dict):
            config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**config)


# Four times what the largest data sets of images know.
MOST_CLASSES = 2**17


def check_backbone(backbone):
    """Checks that a classifier's backbone is a model from images to one map of features."""
    is_model = isinstance(backbone, keras.Model) and hasattr(backbone, "data_format")
    if not is_model or len(backbone.outputs) != 1 or len(backbone.outputs[0].shape) != 4:
        raise DMFormerError(f"backbone must be a DMFormerBackbone, not {shown(backbone)}.")


def _wants_probabilities(loss):
    """Whether a loss is one of Keras's cross-entropies as they are by default."""
    if isinstance(loss, str):
        return "crossentropy" in loss.lower()
    name = getattr(loss, "__name__", type(loss).__name__)
    # A cross-entropy from elsewhere, this package's among them, knows what it is given.
    is_keras_own = str(getattr(loss, "__module__", "")).startswith("keras.")
    return (
        is_keras_own and "crossentropy" in name.lower() and not getattr(loss, "from_logits", False)
    )


def check_head(num_classes, dropout, activation, name=None, trainable=True):
    """Checks what every head is given."""
    check_positive_int("num_classes", num_classes, MOST_CLASSES)
    check_name(name)
    check_bool("trainable", trainable)
    check_rate("dropout", dropout)
    if activation is not None:
        check_activation(activation)


def checked_class_names(class_names, num_classes):
    """Returns class names as a list of str, or None."""
    if class_names is None:
        return None
    if not hasattr(class_names, "__len__") or not _are_labels(class_names):
        raise DMFormerError(
            f"class_names must be a list of str, one for each class, not {shown(class_names)}."
        )
    if len(class_names) != num_classes and (num_classes, len(class_names)) != (1, 2):
        raise DMFormerError(
            f"class_names has {len(class_names)} names for num_classes={num_classes}; give "
            "one for each class."
        )
    names = [str(name) for name in class_names]
    for name in names:
        # Files of labels hold one name per line.
        if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in name):
            raise DMFormerError(
                f"class_names must have no control characters or line breaks, not {shown(name)}."
            )
    return names


def _are_labels(names):
    try:
        ordered = not isinstance(names, str | bytes | dict | set | frozenset)
        return ordered and all(map(_is_label, names))
    except TypeError:
        return False


def _is_label(name):
    """Whether a class's name is text, or a number."""
    return is_text(name) or isinstance(name, numbers.Integral)
