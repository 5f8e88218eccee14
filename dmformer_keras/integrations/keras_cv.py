"""`keras_cv.models.DMFormerBackbone`, and DMFormer presets in KerasCV's tasks."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import wrapt
from keras_cv.src.models.backbones import backbone_presets
from keras_cv.src.models.backbones.backbone import Backbone
from keras_cv.src.models.segmentation.segformer import segformer_presets
from keras_cv.src.utils import preset_utils
from keras_cv.src.utils.python_utils import classproperty

from dmformer_keras import presets
from dmformer_keras.backbone import DMFormerBackbone as PlainBackbone
from dmformer_keras.integrations.functional import settle_bases
from dmformer_keras.type_names import InputShape

settle_bases(Backbone)

# KerasCV's SegFormer needs a static image size, and its `from_preset` has no argument for it.
# KerasCV's MiT backbones use this size.
_SEGFORMER_SHAPE = (224, 224, 3)


@keras.saving.register_keras_serializable(*presets.KERAS_CV_NAME.split(">"))
class DMFormerBackbone(PlainBackbone, Backbone):
    """`dmformer_keras.DMFormerBackbone` as a KerasCV backbone.

    The same arguments, methods and presets; also a `keras_cv.models.Backbone`, for the
    parts of KerasCV that ask for one. Reach it as `keras_cv.models.DMFormerBackbone`
    once both libraries are imported, in either order.

    Example:

    >>> import keras_cv
    >>> backbone = keras_cv.models.DMFormerBackbone.from_preset("dmformer_n")
    >>> model = keras_cv.models.ImageClassifier(backbone, num_classes=3)
    >>> model.output.shape
    (None, 3)
    """

    # Assigned here because KerasCV replaces the docstring of an inherited method.
    from_preset = PlainBackbone.__dict__["from_preset"]

    @classproperty
    def presets_with_weights(cls) -> dict[str, Any]:  # noqa: N805
        """`{name: metadata}` of the presets that have trained weights."""
        return {
            name: metadata
            for name, metadata in cls.presets.items()
            if presets.read_preset(name).has_weights
        }


class _TaskPreset(dict):
    """A preset as KerasCV's tasks look it up, its folder written when first asked for.

    KerasCV reads `preset["kaggle_handle"]`, which may be a folder, and in it a
    config.json that names a KerasCV backbone and its weights.
    """

    def __init__(
        self, name: str, metadata: dict[str, Any], input_shape: InputShape | None = None
    ) -> None:
        super().__init__(metadata=metadata)
        self.name = name
        self.input_shape = input_shape

    def __missing__(self, key):
        if key != "kaggle_handle":
            raise KeyError(key)
        return _folder_of(self.name, self.input_shape)


@functools.cache
def _folder_of(name, input_shape):
    return _write_folder(presets.read_preset(name), input_shape)


def _write_folder(preset, input_shape=None):
    config = dict(preset.config)
    if input_shape is not None:
        config.update(input_shape=input_shape, data_format="channels_last")
    weights = str((preset.folder / presets.WEIGHTS_FILE).resolve()) if preset.has_weights else None
    folder = tempfile.mkdtemp(dir=_temporary_folder().name)
    content = {
        "module": __name__,
        "class_name": DMFormerBackbone.__name__,
        "config": config,
        "registered_name": presets.KERAS_CV_NAME,
        "weights": weights,
    }
    Path(folder, presets.CONFIG_FILE).write_text(json.dumps(content), encoding="utf-8")
    return folder


@functools.cache
def _temporary_folder():
    """Returns a folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="dmformer_keras_")


def _add_task_presets():
    """Adds every preset to the tables that KerasCV's tasks read, in place: tasks hold them."""
    with_weights = DMFormerBackbone.presets_with_weights
    for name, metadata in DMFormerBackbone.presets.items():
        any_size = _TaskPreset(name, metadata)
        one_size = _TaskPreset(name, metadata, _SEGFORMER_SHAPE)
        backbone_presets.backbone_presets[name] = any_size
        segformer_presets.presets[name] = one_size
        if name in with_weights:
            backbone_presets.backbone_presets_with_weights[name] = any_size
            segformer_presets.presets_with_weights[name] = one_size


def _add_names(models):
    models.DMFormerBackbone = DMFormerBackbone


def _get_file(original, _, arguments, __):
    """KerasCV's way to a file of a preset: its tasks are given a config of its own backbone."""
    preset, path = arguments
    if path == presets.CONFIG_FILE and Path(preset, path).is_file():
        config = json.loads(Path(preset, path).read_text(encoding="utf-8"))
        if config.get("registered_name") == presets.KERAS_HUB_NAME:
            return str(Path(_write_folder(presets.read_preset(preset)), path))
    return original(preset, path)


wrapt.wrap_function_wrapper(preset_utils, "get_file", _get_file)
_add_task_presets()
# KerasCV loads the file of its `models` as two modules: `keras_cv.api.models`, which is the
# attribute `keras_cv.models`, and `keras_cv.models`, which `from keras_cv.models import ...` loads.
# The names are added to both.
for _module in ("keras_cv.api.models", "keras_cv.models"):
    wrapt.register_post_import_hook(_add_names, _module)
