"""What every task model here shares: a backbone, a head, and how both are saved."""

from __future__ import annotations

from typing import Any, Self

import keras

from dmformer_keras import presets
from dmformer_keras.backbone import DMFormerBackbone, refuse_quantize
from dmformer_keras.checks import check_activation, check_positive_int, check_rate
from dmformer_keras.errors import DMFormerError
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

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: Keras quantises dense layers only, and could not load what it saves."""
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


def check_head(num_classes, dropout, activation):
    """Checks what every head is given.

    Args:
        num_classes, dropout, activation: as in `DMFormerClassifier`.

    Raises:
        DMFormerError: if one is invalid.
    """
    check_positive_int("num_classes", num_classes)
    check_rate("dropout", dropout)
    if activation is not None:
        check_activation(activation)


def checked_class_names(class_names, num_classes):
    """Returns class names as a list of str, or None.

    Args:
        class_names: sequence of str, or None.
        num_classes: int.

    Raises:
        DMFormerError: if they are not as many as the classes; one output may have the names of
            both its classes.
    """
    if class_names is None:
        return None
    if len(class_names) != num_classes and (num_classes, len(class_names)) != (1, 2):
        raise DMFormerError(
            f"class_names has {len(class_names)} names for num_classes={num_classes}; give "
            "one for each class."
        )
    return [str(name) for name in class_names]
