"""From a preset to a model with its weights."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dmformer_keras.errors import DAMAGE, DMFormerError, shortened, shown
from dmformer_keras.presets.finding import read_preset
from dmformer_keras.presets.folder import (
    TASK_WEIGHTS_FILE,
    WEIGHTS_FILE,
    Preset,
    image_shape,
    verify_checksum,
)
from dmformer_keras.presets.keras_hub_format import KERAS_HUB_ARGUMENTS
from dmformer_keras.presets.weights_files import check_weights
from dmformer_keras.task_table import class_of_stored_task
from dmformer_keras.type_names import PathLike

# Arguments of heads on which the shapes of their weights depend.
_SHAPING = ("num_classes", "head_channels", "normalization")
# With other values of these the weights would not fit, or would compute something else.
_WEIGHTED = (
    "channels",
    "depths",
    "levels",
    "gate_reduction",
    "use_gate",
    "inner_residual",
    "mlp_ratio",
)


def load_backbone(
    cls: type[Any],
    preset: PathLike | Preset,
    load_weights: bool | None = None,
    overrides: dict[str, Any] | None = None,
) -> Any:
    """Builds `cls` from a preset; see `DMFormerBackbone.from_preset`."""
    preset = read_preset(preset)
    if load_weights and not preset.has_weights:
        raise DMFormerError(
            f"Preset {preset.name!r} has no weights; pass load_weights=None or False for "
            "random ones, or choose a preset that has weights."
        )
    weighted = preset.has_weights and load_weights is not False
    if weighted:
        _check_weights_fit(preset, overrides or {})
    cls = _backbone_class(cls, preset)
    config = _override(preset, overrides or {})
    backbone = _construct(cls, config, preset.name)
    if weighted:
        _load_backbone_weights(backbone, cls, preset, config)
    return backbone


def load_task(
    cls: type[Any],
    backbone_cls: type[Any],
    preset: PathLike | Preset,
    load_weights: bool | None = None,
    task_overrides: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    load_head: bool = True,
) -> Any:
    """Builds the task model `cls` on a preset's backbone, with the head's weights if they fit.

    Args:
        cls: class of the task; called as `cls(backbone=..., **task_config)`.
        backbone_cls: class of the backbone.
        preset: str or path.
        load_weights: as in `load_backbone`.
        task_overrides: dict of the head's arguments that replace the preset's.
        overrides: dict of the backbone's arguments that replace the preset's.
        load_head: bool. `False` starts the head at random.

    Returns:
        The task model. The head's weights are loaded if the preset has this head and
        no override changes their shapes; otherwise the head starts at random.

    Raises:
        DMFormerError: as in `load_backbone`.
    """
    found = read_preset(preset)
    backbone = load_backbone(backbone_cls, found, load_weights, overrides)
    stored = stored_head(found, cls)
    model = _construct(cls, {**stored, **(task_overrides or {}), "backbone": backbone}, found.name)
    if load_head and load_weights is not False and has_head_for(found, model):
        _load_weights_file(model.head, found.path(TASK_WEIGHTS_FILE), found)
    return model


def _backbone_class(cls, preset):
    """The class to build: `cls`, or the subclass of it whose preset this is."""
    name = preset.backbone_class
    if name is None or name == keras.saving.get_registered_name(cls):
        return cls
    found = keras.saving.get_registered_object(name)
    if isinstance(found, type) and issubclass(found, cls):
        return found
    raise DMFormerError(
        f"{preset.name!r} describes a {shown(name)}, not a {cls.__name__}; import the module that "
        "registers this class, or load it with the library that wrote it."
    )


def class_to_build(cls: type[Any], preset: Preset, num_classes: int | None = None) -> type[Any]:
    """Returns the class to build from a preset: `cls`, or a subclass of it.

    Args:
        cls: class of a task.
        preset: Preset.
        num_classes: int, of a new head where the preset has none of the class, or None.

    Returns:
        type: the class whose head the preset holds, where that is a subclass of `cls`.

    Raises:
        DMFormerError: the preset holds a head of another class, and no new one is asked for.
    """
    if preset.task is None:
        return cls
    found = class_of_stored_task(preset.task)
    if found is not None and issubclass(found, cls):
        return found
    if num_classes is None and not stored_head(preset, cls):
        raise DMFormerError(
            f"{preset.name!r} holds a {_class_of(preset)}, where a {cls.__name__} was "
            "expected; load it with dmformer_keras.load after importing the module that registers "
            "its class, or give num_classes to put a new head on its backbone."
        )
    return cls


def _class_of(preset):
    return shown(preset.task.get("class_name"))[1:-1]  # without the quotes


def has_head_for(preset: Preset, model: keras.Model) -> bool:
    """Tells whether a preset holds the weights of a head of a model's kind and shape.

    Args:
        preset: Preset.
        model: task model.

    Returns:
        bool.
    """
    stored = stored_head(preset, type(model))
    fits = all(getattr(model, key, None) == stored.get(key) for key in _SHAPING)
    return bool(stored) and preset.holds(TASK_WEIGHTS_FILE) and fits


def stored_head(preset: Preset, cls: type[Any]) -> dict[str, Any]:
    """Returns the arguments of the head that a preset holds for a task.

    Args:
        preset: Preset.
        cls: class of the task.

    Returns:
        dict, empty where the preset has no head of this class.
    """
    if preset.task is None or preset.task.get("class_name") != cls.__name__:
        return {}
    # Of two classes of one name the registered one: an unregistered class has no other name.
    if class_of_stored_task(preset.task) not in (None, cls):
        return {}
    config = preset.task["config"]
    return {key: value for key, value in config.items() if key not in KERAS_HUB_ARGUMENTS}


def adapt_input_channels(kernel: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """Turns a first convolution's kernel into one for another number of input channels.

    The new channels repeat the old ones in turn, each old channel's weight shared
    among its copies; with fewer channels than before each takes an equal share of
    all. The sum over input channels is unchanged, so an image whose channels are all
    alike gives the same output as before, whatever their number.

    Source: timm's `adapt_input_conv` repeats and rescales; sharing each channel's
    weight among its copies, which keeps the sum exact, is this project's decision.

    Args:
        kernel: array `(height, width, input channels, filters)`.
        channels: positive int, the new number of input channels.

    Returns:
        Array `(height, width, channels, filters)`.

    Example:

    >>> kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 8))
    >>> grey = adapt_input_channels(kernel, 1)
    >>> grey.shape, bool(np.allclose(grey.sum(2), kernel.sum(2)))
    ((7, 7, 1, 8), True)
    """
    previous = kernel.shape[2]
    if channels < previous:
        return np.repeat(kernel.sum(axis=2, keepdims=True) / channels, channels, axis=2)
    sources = np.arange(channels) % previous
    copies = np.bincount(sources)[sources]
    return kernel[:, :, sources] / copies[None, None, :, None]


def _override(preset, overrides):
    """Returns the preset's config with overrides, its input shape in the right order."""
    config = {**preset.config, **overrides}
    shape = preset.config.get("input_shape")
    saved_format = preset.config.get("data_format")
    new_format = config.get("data_format") or keras.config.image_data_format()
    if "input_shape" not in overrides and shape and saved_format != new_format:
        to_first = new_format == "channels_first"
        config["input_shape"] = (shape[2], *shape[:2]) if to_first else (*shape[1:], shape[0])
    return config


def _construct(cls, config, name):
    try:
        return cls.from_config(config)
    except DMFormerError:
        raise
    except DAMAGE as error:
        raise DMFormerError(
            f"{cls.__name__} cannot be built from preset {name!r}: {shortened(error, 150)}; check "
            "the overrides against the class's arguments."
        ) from error


def _check_weights_fit(preset, overrides):
    for key in _WEIGHTED:
        if key not in overrides or key not in preset.config:
            continue
        if _plain(overrides[key]) != _plain(preset.config[key]):
            raise DMFormerError(
                f"The weights of preset {preset.name!r} do not fit {key}="
                f"{shown(overrides[key])}: they were made with {shown(preset.config[key])}; leave "
                "it out, or pass load_weights=False."
            )


def _plain(value):
    """Returns tuples as the lists that JSON makes of them."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _load_backbone_weights(backbone, cls, preset, config):
    path = preset.folder / WEIGHTS_FILE
    if image_shape(preset.config)[2] == image_shape(config)[2]:
        _load_weights_file(backbone, path, preset)
        return
    original = _construct(cls, {**preset.config, "name": backbone.name}, preset.name)
    _load_weights_file(original, path, preset)
    kernel = backbone.get_layer("stem1_conv").kernel
    for source, target in zip(original.variables, backbone.variables, strict=True):
        value = keras.ops.convert_to_numpy(source)
        if target is kernel:
            value = adapt_input_channels(value, kernel.shape[2])
        target.assign(value)


def _load_weights_file(model, path, preset):
    verify_checksum(path, preset)
    check_weights(path, path, model.count_params())
    try:
        model.load_weights(path)
    except DAMAGE as error:
        raise DMFormerError(
            f"The weights {path} do not fit {model.name!r}: {shortened(error, 150)}; leave out "
            "overrides that change the architecture, or pass load_weights=False."
        ) from error
