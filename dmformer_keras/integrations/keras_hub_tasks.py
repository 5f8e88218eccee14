"""`keras_hub.models.DMFormerImageClassifier` and `DMFormerImageSegmenter`.

They are KerasHub tasks with the heads of this project: the same presets, the same outputs.
"""

from collections.abc import Sequence
from typing import Any, NoReturn, Self

import keras
import wrapt
from keras_hub.src.layers.preprocessing.image_converter import ImageConverter
from keras_hub.src.models.image_classifier import ImageClassifier
from keras_hub.src.models.image_classifier_preprocessor import ImageClassifierPreprocessor
from keras_hub.src.models.image_segmenter import ImageSegmenter
from keras_hub.src.models.image_segmenter_preprocessor import ImageSegmenterPreprocessor
from keras_hub.src.models.preprocessor import Preprocessor
from keras_hub.src.models.task import Task

from dmformer_keras import presets
from dmformer_keras.backbone import refuse_quantize
from dmformer_keras.errors import DMFormerError
from dmformer_keras.integrations.keras_hub_backbone import DMFormerBackbone
from dmformer_keras.layers.common import spatial_axes
from dmformer_keras.task_table import TASKS
from dmformer_keras.type_names import Config, PathLike


def _registered(cls):
    register = keras.saving.register_keras_serializable
    return register(package="dmformer_keras", name=f"KerasHub{cls.__name__}")(cls)


@_registered
class DMFormerImageConverter(ImageConverter):
    """Brings images to the size of a model; values stay in 0..255, which DMFormer scales itself.

    Images are made smaller with `antialias=True`, where KerasHub's default is `False`: as this
    project's commands and pipelines do it, and the shipped weights were trained.

    Args:
        **kwargs: as in `keras_hub.layers.ImageConverter`.
    """

    backbone_cls = DMFormerBackbone

    def __init__(self, *args: Any, antialias: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, antialias=antialias, **kwargs)

    def fit_to(self, backbone: DMFormerBackbone) -> None:
        """Takes the size of a backbone's images, where it has one, and their data format."""
        size = tuple(backbone.input.shape[axis] for axis in spatial_axes(backbone.data_format))
        if None not in size:
            self.image_size = size
        self.data_format = self.resizing.data_format = backbone.data_format

    def get_config(self) -> Config:
        return {**super().get_config(), "data_format": self.data_format}


@_registered
class DMFormerImageClassifierPreprocessor(ImageClassifierPreprocessor):
    """Images, and labels that it leaves alone, for `DMFormerImageClassifier`."""

    backbone_cls = DMFormerBackbone
    image_converter_cls = DMFormerImageConverter


@_registered
class DMFormerImageSegmenterPreprocessor(ImageSegmenterPreprocessor):
    """Images and masks for `DMFormerImageSegmenter`."""

    backbone_cls = DMFormerBackbone
    image_converter_cls = DMFormerImageConverter


def _head_class(name, kind):
    known = {name: row.cls for name, row in TASKS.items() if row.kind == kind}
    if name not in known:
        raise DMFormerError(f"head must be one of {', '.join(known)}, not {name!r}.")
    return known[name]


class _DMFormerTask:
    """What both tasks share: a KerasHub task with the graph of one of this project's models."""

    backbone_cls = DMFormerBackbone

    def _settle(self, plain, preprocessor, **kwargs):
        """Builds this model on the graph of `plain`."""
        unknown = sorted(set(kwargs) - {"name", "compile"})
        if unknown:
            raise DMFormerError(
                f"{type(self).__name__} has no argument {unknown[0]!r}; what is the backbone's is "
                "given to the backbone, and its size is called image_shape."
            )
        converter = getattr(preprocessor, "image_converter", None)
        if isinstance(converter, DMFormerImageConverter):
            # The backbone may have another size than the preset that the converter comes from.
            converter.fit_to(plain.backbone)
        self.backbone = plain.backbone
        self.preprocessor = preprocessor
        # Before the model compiles itself, because its loss depends on the activation.
        for name in plain.head_arguments:
            setattr(self, name, getattr(plain, name))
        Task.__init__(self, inputs=plain.input, outputs=plain.output, **kwargs)
        self.plain_class = type(plain)
        self.head = plain.head

    def get_config(self) -> Config:
        arguments = {name: getattr(self, name) for name in self.plain_class.head_arguments}
        # Not the constructor of KerasHub's classifier, which adds a pooling layer.
        return {**Task.get_config(self), **arguments, "head": self.plain_class.__name__}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        config = dict(config)
        has_preprocessor = "preprocessor" in config
        if isinstance(config["backbone"], dict):
            config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"])
        if not has_preprocessor:  # a preset written by another class of this project
            preprocessor = cls.preprocessor_cls  # type: ignore[attr-defined]
            config["preprocessor"] = preprocessor(DMFormerImageConverter())
        for names in ("class_names", "class_colors"):
            # The preset is loaded with another number of classes.
            if config.get(names) is not None and len(config[names]) != config["num_classes"]:
                config[names] = None
        return super().from_config(config)  # type: ignore[misc]

    def quantize(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: see `DMFormerBackbone.quantize`."""
        refuse_quantize()

    def load_task_weights(self, filepath: PathLike) -> None:
        """Loads the weights of the head.

        Args:
            filepath: str or path.
        """
        self.head.load_weights(filepath)

    def save_task_weights(self, filepath: PathLike) -> None:
        """Writes the weights of the head.

        Args:
            filepath: str or path.
        """
        self.head.save_weights(filepath)

    def save_to_preset(self, preset_dir: PathLike, max_shard_size: Any = None) -> None:
        """Writes a preset that KerasHub, KerasCV and `dmformer_keras` read alike.

        Args:
            preset_dir: str or path. The folder.
            max_shard_size: KerasHub's. It does nothing: the weights are always one file.
        """
        arguments = {name: getattr(self, name) for name in self.plain_class.head_arguments}
        is_layer = isinstance(self.preprocessor, keras.Layer)  # KerasHub accepts functions too
        arguments["preprocessor"] = (
            keras.saving.serialize_keras_object(self.preprocessor) if is_layer else None
        )
        presets.save_task(self, arguments, preset_dir)
        if isinstance(self.preprocessor, Preprocessor):
            self.preprocessor.save_to_preset(str(preset_dir))


@_registered
class DMFormerImageClassifier(_DMFormerTask, ImageClassifier):
    """`dmformer_keras.DMFormerClassifier` as a KerasHub task, with a preprocessor.

    Args:
        backbone: a `keras_hub.models.DMFormerBackbone`.
        num_classes: positive int.
        preprocessor: a `DMFormerImageClassifierPreprocessor`, or `None` for images that are of
            the backbone's size.
        dropout: float in `[0, 1)`.
        activation: name of a Keras activation, or `None` for logits.
        class_names: sequence of str, kept with the model, or `None`.
        head: "DMFormerClassifier", or the name of another registered classifier.
        **kwargs: `name` and `compile` of a KerasHub task.

    Example:

    >>> import keras_hub, numpy as np
    >>> classifier = keras_hub.models.ImageClassifier.from_preset("dmformer_t_imagenette")
    >>> classifier.predict(np.zeros((2, 200, 300, 3)), verbose=0).shape
    (2, 10)
    """

    preprocessor_cls = DMFormerImageClassifierPreprocessor

    def __init__(
        self,
        backbone: DMFormerBackbone,
        num_classes: int,
        preprocessor: Any = None,
        dropout: float = 0.0,
        activation: str | None = None,
        class_names: Sequence[str] | None = None,
        head: str = "DMFormerClassifier",
        **kwargs: Any,
    ) -> None:
        plain = _head_class(head, "classify")(
            backbone, num_classes, dropout, activation, class_names
        )
        self._settle(plain, preprocessor, **kwargs)


@_registered
class DMFormerImageSegmenter(_DMFormerTask, ImageSegmenter):
    """`SemanticFPN` or `UPerNet` as a KerasHub task, with a preprocessor.

    Compiled as it comes, it is trained by `dmformer_keras.training.SegmentationLoss` on masks of
    class indexes, of which 255 counts for nothing.

    Args:
        backbone: a `keras_hub.models.DMFormerBackbone`.
        num_classes: positive int.
        preprocessor: a `DMFormerImageSegmenterPreprocessor`, or `None`.
        head: "SemanticFPN" or "UPerNet".
        head_channels, normalization, dropout, activation, class_names, class_colors: as in these.
        **kwargs: `name` and `compile` of a KerasHub task.

    Raises:
        DMFormerError: there is no such head, or an argument of it is wrong.

    Example:

    >>> import keras_hub
    >>> backbone = keras_hub.models.DMFormerBackbone.from_preset(
    ...     "dmformer_n", image_shape=(64, 96, 3)
    ... )
    >>> keras_hub.models.DMFormerImageSegmenter(backbone, 3, head_channels=16).output_shape
    (None, 64, 96, 3)
    """

    preprocessor_cls = DMFormerImageSegmenterPreprocessor

    def __init__(
        self,
        backbone: DMFormerBackbone,
        num_classes: int,
        preprocessor: Any = None,
        head: str = "SemanticFPN",
        head_channels: int | None = None,
        normalization: str | None = None,
        dropout: float | None = None,
        activation: str | None = None,
        class_names: Sequence[str] | None = None,
        class_colors: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        plain = _head_class(head, "segment")(
            backbone, num_classes, head_channels, normalization, dropout, activation, class_names,
            class_colors,
        )  # fmt: skip
        self._settle(plain, preprocessor, **kwargs)

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any
    ) -> None:
        """As `keras_hub.models.ImageSegmenter.compile`, with this project's loss by default.

        Args:
            optimizer, loss, metrics, **kwargs: as there.
        """
        from dmformer_keras.training import PixelAccuracy, SegmentationLoss

        if isinstance(loss, str) and loss == "auto":
            loss = SegmentationLoss(from_logits=self.activation != "softmax")
        if isinstance(metrics, str) and metrics == "auto":
            metrics = [PixelAccuracy()]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)


def _add_to(models):
    for cls in (
        DMFormerImageClassifier,
        DMFormerImageClassifierPreprocessor,
        DMFormerImageSegmenter,
        DMFormerImageSegmenterPreprocessor,
    ):
        setattr(models, cls.__name__, cls)


wrapt.register_post_import_hook(_add_to, "keras_hub.models")
