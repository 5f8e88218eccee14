"""One way to a trained model, wherever and in whatever form it was saved."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from dmformer_keras import presets
from dmformer_keras.backbone import DMFormerBackbone
from dmformer_keras.classifier import DMFormerClassifier
from dmformer_keras.data.images import checked_size
from dmformer_keras.errors import DAMAGE, DMFormerError, shortened, shown
from dmformer_keras.exported_files import is_exported
from dmformer_keras.fusing import FusedModel
from dmformer_keras.inference.model_outputs import image_size_of, is_segmenter
from dmformer_keras.presets import is_address
from dmformer_keras.presets.folder import check_is_trained
from dmformer_keras.task_model import TaskModel
from dmformer_keras.task_table import TASKS, class_of_stored_task
from dmformer_keras.type_names import ImageSize, Model, PathLike

if TYPE_CHECKING:
    from dmformer_keras.segmenter import Segmenter

KERAS_SUFFIX = ".keras"
# An image size for `load_trained`: the model then takes images of any.
ANY_SIZE = (None, None)
_WEIGHTS_MEMBER = "model.weights.h5"


def load(what: PathLike, image_size: ImageSize | None = None) -> Model:
    """Loads a trained model from wherever it was saved, ready to use.

    What it returns goes into `dmformer_keras.classify` or `dmformer_keras.segment`, and takes
    images in 0..255, channels last.

    Args:
        what: str or path, one of these:

            - the name of a preset with weights, such as `"dmformer_t_imagenette"`;
            - the folder of a preset, or of a run of `dmformer train`;
            - a `.keras` file;
            - an address, `"hf://user/repository"` or `"kaggle://user/model/keras/variation"`;
            - an exported file: `.tflite`, `.onnx`, OpenVINO's `.xml`, or a SavedModel's folder.
        image_size: int or (height, width), in pixels; `None` keeps the model's own size, as
            `.keras` and exported files always do.

    Returns:
        `DMFormerClassifier`, `SemanticFPN`, `UPerNet`, the `FusedModel` of one that a `.keras`
        file holds, or a `dmformer_keras.export.ExportedModel`.

    Raises:
        DMFormerError: there is no such model, it is an architecture without weights or without
            a head, its files are damaged, or what runs it is not installed.

    Example:

    >>> import tempfile
    >>> from dmformer_keras import DMFormerN
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     DMFormerN(input_shape=(64, 64, 3), num_classes=4).save_to_preset(folder)
    ...     load(folder).num_classes
    4
    """
    if not isinstance(what, (str, os.PathLike)) or not os.fspath(what):
        raise DMFormerError(
            "A model to load must be given by the name of a preset, a path or an address, not by "
            f"{shown(what)}."
        )
    return _load_exported(what, image_size) if is_exported(what) else load_trained(what, image_size)


def _load_exported(path, image_size):
    # Not above: what runs exported files is seldom needed, and has much to import.
    from dmformer_keras.export import load_exported

    if image_size is not None:
        raise DMFormerError(
            f"{path} takes images of the size that it was exported with; leave out the image size."
        )
    model = load_exported(path).taking_pixels()
    if model.description.get("task") == "features":
        raise DMFormerError(
            f"{path} gives features, where a model from images to classes was expected; open it "
            "with dmformer_keras.export.load_exported."
        )
    return model


def load_trained(
    model: PathLike | presets.Preset,
    image_size: ImageSize | None = None,
    *,
    dtype: str | None = None,
) -> DMFormerClassifier | Segmenter | FusedModel:
    """Loads a trained classifier or segmenter, channels last.

    Args:
        model: str or path: a preset's name, the folder of a preset or of a training run,
            or a `.keras` file.
        image_size: int or (height, width), in pixels, or `ANY_SIZE`; None keeps the model's
            own. A `.keras` file keeps its own.
        dtype: str, the precision to compute in, such as "float32"; None keeps the model's own.
            A `.keras` file keeps its own.

    Returns:
        `DMFormerClassifier`, `SemanticFPN`, `UPerNet`, or the `FusedModel` of one that a
        `.keras` file holds.

    Raises:
        DMFormerError: there is none, it has no weights or no head, or its weights are
            damaged.

    Example:

    >>> import tempfile
    >>> from dmformer_keras import SemanticFPN
    >>> model = SemanticFPN.from_preset("dmformer_n", num_classes=4, head_channels=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_to_preset(folder)
    ...     load_trained(folder).num_classes
    4
    """
    if str(model).endswith(KERAS_SUFFIX) and not is_address(str(model)):
        return _load_keras_file(Path(str(model)), image_size)
    preset = presets.read_preset(model)
    cls = task_class(preset)
    check_is_trained(preset)
    # Images come as they are, in 0..255, also to a model that was built for -1..1.
    overrides = {"data_format": "channels_last", "include_rescaling": True}
    if dtype is not None:
        overrides["dtype"] = dtype
    if image_size is not None:
        size = ANY_SIZE if image_size == ANY_SIZE else checked_size(image_size)
        overrides["input_shape"] = (*size, presets.image_shape(preset.config)[2])
    return cls.from_preset(preset, load_weights=True, **overrides)


def task_class(preset: presets.Preset) -> type[TaskModel]:
    """Returns the class of the task that a preset is of; of a backbone alone, the classifier's."""
    if preset.task is None:
        return DMFormerClassifier
    found = class_of_stored_task(preset.task)
    if found is None or not issubclass(found, TaskModel):
        raise DMFormerError(
            f"{preset.name!r} holds a {shown(preset.task.get('class_name'))[1:-1]}, where one of "
            f"{', '.join(TASKS)} was expected; import the module that registers this class, or "
            "load it with the library that wrote it."
        )
    return found


def load_classifier(
    model: PathLike | presets.Preset, image_size: ImageSize | None = None
) -> DMFormerClassifier | FusedModel:
    """Loads a trained classifier, channels last.

    Args:
        model: str or path: a preset's name, the folder of a preset or of a training run,
            or a `.keras` file.
        image_size: int or (height, width), in pixels; None keeps the model's own. A
            `.keras` file keeps its own.

    Returns:
        `DMFormerClassifier`, or the `FusedModel` that a `.keras` file holds.

    Raises:
        DMFormerError: there is none, it has no weights or no head, or its weights are
            damaged.

    Example:

    >>> import tempfile
    >>> from dmformer_keras import DMFormerN
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     DMFormerN(input_shape=(64, 64, 3), num_classes=4).save_to_preset(folder)
    ...     load_classifier(folder).output.shape
    (None, 4)
    """
    loaded = load_trained(model, image_size)
    if is_segmenter(loaded):
        raise DMFormerError(
            f"{str(model)!r} is a segmenter, where a classifier was expected; load it with "
            "dmformer_keras.load."
        )
    return loaded


def check_keras_file(path):
    """Checks that a path is of a file that may be a whole `.keras` file."""
    if not path.is_file():
        raise DMFormerError(f"There is no file {os.fspath(path)!r}; give a model that was saved.")
    # Keras says of such a file that there is none.
    if not zipfile.is_zipfile(path):
        raise DMFormerError(
            f"{os.fspath(path)!r} is no whole .keras file: its end is missing, or it is of another "
            "kind; copy or save it again."
        )


def _load_keras_file(path, image_size):
    check_keras_file(path)
    try:
        model = keras.saving.load_model(path, compile=False)
        _check_stored_weights(path, model)
    except DMFormerError:
        raise
    except DAMAGE as error:
        raise DMFormerError(
            f"{os.fspath(path)!r} cannot be loaded ({shortened(error, 150)}); it is damaged or no "
            "Keras model, save it again."
        ) from error
    if not _is_trained_task(model):
        raise DMFormerError(
            f"{os.fspath(path)!r} holds a {type(model).__name__}, where one of "
            f"{', '.join(TASKS)} or what dmformer_keras.fuse made of one was expected; give "
            "such a file."
        )
    if any(getattr(layer, "data_format", None) == "channels_first" for layer in _layers(model)):
        raise DMFormerError(
            f"{os.fspath(path)!r} takes images with the channels first; save it with "
            "save_to_preset and give that folder."
        )
    if any(
        isinstance(layer, DMFormerBackbone) and not layer.get_config()["include_rescaling"]
        for layer in _layers(model)
    ):
        raise DMFormerError(
            f"{os.fspath(path)!r} takes images scaled to -1..1, and they come in 0..255; save it "
            "with save_to_preset and give that folder."
        )
    takes_any = is_segmenter(model) and None in model.input.shape[1:3]
    fits = image_size is None or takes_any or checked_size(image_size) == image_size_of(model)
    if not fits:
        raise DMFormerError(
            f"{os.fspath(path)!r} takes images of its own size only; leave out the image size, or "
            "save the model with save_to_preset and give that folder."
        )
    return model


def _check_stored_weights(path, model):
    with zipfile.ZipFile(path) as archive:
        if _WEIGHTS_MEMBER in archive.namelist():
            content = io.BytesIO(archive.read(_WEIGHTS_MEMBER))
            presets.check_weights(content, path, model.count_params())


def _is_trained_task(model):
    if isinstance(model, FusedModel):
        # Of other libraries' tasks classifiers are known by their shape.
        return len(model.outputs) == 1 and (model.task in TASKS or len(model.output.shape) == 2)
    return isinstance(model, TaskModel)


def _layers(model):
    """Returns the layers of a model and of the models in it."""
    return model._flatten_layers(include_self=False)
