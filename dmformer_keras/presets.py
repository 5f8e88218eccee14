"""Presets: named architectures, and folders that hold a model's config and weights.

A preset folder holds

    config.json        the backbone: its class and the arguments of its constructor
    model.weights.h5   the backbone's weights (may be absent)
    task.json          the head on the backbone, for a classifier or a segmenter
    task.weights.h5    the head's weights
    metadata.json      sizes, versions, and the SHA-256 of each weights file
    image_converter.json   for KerasHub: the size that images are brought to
    preprocessor.json      of KerasHub's tasks, where one of them has written the folder

which is the layout of KerasHub's presets plus the checksums. Nothing in a folder
is executed: only known arguments of known classes are read from it.
"""

import difflib
import hashlib
import json
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from dmformer_keras import hub
from dmformer_keras.architectures import ARCHITECTURES
from dmformer_keras.errors import DMFormerError, shortened

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
TASK_FILE = "task.json"
TASK_WEIGHTS_FILE = "task.weights.h5"
METADATA_FILE = "metadata.json"
CONVERTER_FILE = "image_converter.json"
PREPROCESSOR_FILE = "preprocessor.json"
SHARDED_FILE = "model.weights.json"

# Arguments of heads that their weights' shapes depend on.
_SHAPING = ("num_classes", "head_channels", "normalization")
# What weights belong to: with other values they would not fit, or be another function's.
_WEIGHTED = (
    "channels",
    "depths",
    "levels",
    "gate_reduction",
    "use_gate",
    "inner_residual",
    "mlp_ratio",
)

PLAIN_NAME = "dmformer_keras>DMFormerBackbone"
KERAS_CV_NAME = "dmformer_keras>KerasCVDMFormerBackbone"
KERAS_HUB_NAME = "dmformer_keras>KerasHubDMFormerBackbone"
# The KerasHub class that reads what each of ours writes.
KERAS_HUB_TASKS = {
    "DMFormerClassifier": "dmformer_keras>KerasHubDMFormerImageClassifier",
    "SemanticFPN": "dmformer_keras>KerasHubDMFormerImageSegmenter",
    "UPerNet": "dmformer_keras>KerasHubDMFormerImageSegmenter",
}
# What that class asks of a file, and ours know without it.
_KERAS_HUB_ARGUMENTS = ("backbone", "head", "preprocessor")


class Preset(NamedTuple):
    """A preset that was found: what to build, and where its weights are."""

    name: str
    config: dict
    metadata: dict
    folder: Path | None
    task: dict | None

    @property
    def has_weights(self):
        """Whether it holds the backbone's weights."""
        return self.holds(WEIGHTS_FILE)

    def holds(self, name):
        """Tells whether the folder has a file, or its metadata says that it should."""
        if self.folder is None:
            return False
        return name in self.metadata.get("files", {}) or (self.folder / name).is_file()


def list_presets():
    """Returns `{name: metadata}` of the architectures and of the shipped presets."""
    shipped = {folder.name: read_preset(folder).metadata for folder in _shipped_folders()}
    return {name: entry["metadata"] for name, entry in ARCHITECTURES.items()} | shipped


def read_preset(preset):
    """Finds a preset by built-in name, folder or address on the Hub and reads its config.

    Args:
        preset: str or path; "hf://user/repository" is fetched from the Hugging Face Hub,
            "kaggle://user/model/keras/variation" from Kaggle. A `Preset` is given back as it is.

    Returns:
        A `Preset`; its weights are not read yet.

    Raises:
        DMFormerError: if there is no such preset, or its folder has no valid config.
    """
    if isinstance(preset, Preset):
        return preset
    name = os.fspath(preset) if isinstance(preset, (str, os.PathLike)) else None
    if not name:
        raise DMFormerError(f"A preset is given by its name or folder, not by {preset!r}.")
    if hub.is_address(name):
        found = _read_folder(hub.download_preset(name))._replace(name=name)
        _check_is_whole(found)
        return found
    shipped = {folder.name: folder for folder in _shipped_folders()}
    if name in shipped:
        return _read_folder(shipped[name])
    if name in ARCHITECTURES:
        entry = ARCHITECTURES[name]
        return Preset(name, dict(entry["config"]), entry["metadata"], None, None)
    if Path(name).is_dir():
        return _read_folder(Path(name))
    names = [*ARCHITECTURES, *shipped]
    nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    if Path(name).is_file():
        raise DMFormerError(
            f"{name!r} is a file, and a preset is a folder; save the model with save_to_preset "
            "and give that folder."
        )
    raise DMFormerError(
        f"There is no preset or folder {name!r}; {hint}The built-in presets are {', '.join(names)}."
    )


def load_backbone(cls, preset, load_weights=None, overrides=None):
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
    config = _override(preset, overrides or {})
    backbone = _construct(cls, config, preset.name)
    if weighted:
        _load_backbone_weights(backbone, cls, preset, config)
    return backbone


def load_task(
    cls,
    backbone_cls,
    preset,
    load_weights=None,
    task_overrides=None,
    overrides=None,
    load_head=True,
):
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
        _load_weights_file(model.head, found.folder / TASK_WEIGHTS_FILE, found)
    return model


def has_head_for(preset, model):
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


def stored_head(preset, cls):
    """Returns the arguments of the head that a preset holds for a task.

    Args:
        preset: Preset.
        cls: class of the task.

    Returns:
        dict, empty where the preset has no head of this class.
    """
    holds = preset.task is not None and preset.task.get("class_name") == cls.__name__
    if not holds:
        return {}
    config = preset.task["config"]
    return {key: value for key, value in config.items() if key not in _KERAS_HUB_ARGUMENTS}


def save_backbone(backbone, folder, metadata=None):
    """Writes a backbone's preset; see `DMFormerBackbone.save_to_preset`."""
    _save(folder, backbone, None, metadata or {})


def save_task(model, task_config, folder, metadata=None, half_precision=False):
    """Writes a task model's preset: its backbone, its head, and both their weights.

    Half precision is of what is large, kernels: scales, biases and BatchNorm's statistics,
    some of which float16 has no numbers for, stay as they are.
    """
    _save(folder, model.backbone, (model, task_config), metadata or {}, half_precision)


def adapt_input_channels(kernel, channels):
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


# How the folder is called that holds what is being saved, beside what it will replace.
SAVING = ".saving-"


def weights_folder():
    """Returns the folder of shipped presets: in an installed package, or in its checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "weights"
    return inside if inside.is_dir() else package.parent / "weights"


def _shipped_folders():
    return sorted(path.parent for path in weights_folder().glob(f"*/{CONFIG_FILE}"))


def _read_folder(folder):
    config = _read_json(folder / CONFIG_FILE, folder)
    if not isinstance(config.get("config"), dict):
        raise DMFormerError(
            f"{folder / CONFIG_FILE} holds no model: expected the config that save_to_preset "
            "writes; save the preset again."
        )
    if config.get("class_name") != "DMFormerBackbone":
        raise DMFormerError(
            f"{folder / CONFIG_FILE} describes a {config.get('class_name')!r}, not a "
            "DMFormerBackbone; load it with the library that wrote it."
        )
    backbone = dict(config["config"])
    if (folder / SHARDED_FILE).is_file() and not (folder / WEIGHTS_FILE).is_file():
        raise DMFormerError(
            f"The weights in {str(folder)!r} are split over several files; load them with "
            "keras_hub.models.Backbone.from_preset, and save what it returns once more."
        )
    if config.get("mixed_precision") is not None:
        backbone["dtype"] = config["mixed_precision"]
    if "image_shape" in backbone:
        # KerasHub's name for it.
        backbone["input_shape"] = backbone.pop("image_shape")
    if isinstance(backbone.get("dtype"), dict):
        backbone["dtype"] = _policy_name(backbone["dtype"], folder / CONFIG_FILE)
    return Preset(
        name=str(folder),
        config=backbone,
        metadata=_read_metadata(folder),
        folder=folder,
        task=_read_task(folder),
    )


def _check_is_whole(preset):
    """Refuses what lacks a file, which would be made up at random.

    Another program may have fetched a part of it into the cache.
    """
    weights = preset.metadata.get("files", {})
    needed = [METADATA_FILE, WEIGHTS_FILE, *weights]
    needed += [TASK_FILE] if TASK_WEIGHTS_FILE in weights else []
    missing = [name for name in needed if not (preset.folder / name).is_file()]
    if missing:
        raise DMFormerError(
            f"{preset.name} is incomplete: {missing[0]} is missing, there or in the cache; load it "
            "once with a network, or ask who has made it."
        )


def _policy_name(dtype, path):
    """Returns the name of a serialised dtype policy: nothing else is built from the file."""
    name = dtype["config"].get("name") if isinstance(dtype.get("config"), dict) else None
    if dtype.get("class_name") != "DTypePolicy" or not isinstance(name, str):
        raise DMFormerError(
            f"{path} has a dtype that is no plain policy: {dtype.get('class_name')!r}; save the "
            'model with a dtype policy such as "float32" or "mixed_bfloat16".'
        )
    return name


def _read_metadata(folder):
    path = folder / METADATA_FILE
    if not path.is_file():
        return {}
    metadata = _read_json(path, folder)
    files = metadata.setdefault("files", {})
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str) for entry in files.values()
    ):
        raise DMFormerError(
            f'{path} is damaged: "files" must give a "sha256" for each weights file; copy or save '
            "the preset again."
        )
    return metadata


def _read_task(folder):
    path = folder / TASK_FILE
    if not path.is_file():
        return None
    task = _read_json(path, folder)
    if not isinstance(task.get("config"), dict):
        raise DMFormerError(f"{path} holds no config of a task; copy or save the preset again.")
    return task


def _read_json(path, folder):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DMFormerError(
            f"Folder {str(folder)!r} is no preset: it has no {path.name}; give a folder written "
            "by save_to_preset."
        ) from None
    except (OSError, ValueError) as error:
        raise DMFormerError(f"{path} cannot be read as JSON ({error}); save it again.") from None
    if not isinstance(content, dict):
        raise DMFormerError(f"{path} must hold a JSON object; save the preset again.")
    return content


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
    except (TypeError, ValueError, OverflowError) as error:
        raise DMFormerError(
            f"{cls.__name__} cannot be built from preset {name!r}: {error}; check the overrides "
            "against the class's arguments."
        ) from error


def _check_weights_fit(preset, overrides):
    for key in _WEIGHTED:
        if key not in overrides or key not in preset.config:
            continue
        if _plain(overrides[key]) != _plain(preset.config[key]):
            raise DMFormerError(
                f"The weights of preset {preset.name!r} do not fit {key}={overrides[key]!r}: they "
                f"were made with {preset.config[key]!r}; leave it out, or pass load_weights=False."
            )


def _plain(value):
    """Returns tuples as the lists that JSON makes of them."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def image_shape(config):
    """Returns what a backbone's config says of its images, whatever its data format.

    Args:
        config: dict of `DMFormerBackbone`'s arguments.

    Returns:
        `(height, width, channels)`; height and width are `None` where any will do.
    """
    shape = config.get("input_shape")
    if shape is None:
        return (None, None, 3)
    data_format = config.get("data_format") or keras.config.image_data_format()
    return (*shape[1:], shape[0]) if data_format == "channels_first" else tuple(shape)


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
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise DMFormerError(
            f"The weights {path} do not fit {model.name!r}: {shortened(error)}; leave out "
            "overrides that change the architecture, or pass load_weights=False."
        ) from error


def verify_checksum(path, preset):
    """Checks a file of weights against what its preset says of it.

    Args:
        path: Path of the file.
        preset: Preset.

    Raises:
        DMFormerError: it is missing, or another.
    """
    if not path.is_file():
        raise DMFormerError(
            f"{path} is missing, though {METADATA_FILE} lists it; copy or save the preset again."
        )
    expected = preset.metadata.get("files", {}).get(path.name)
    if expected is None:
        # Written by another library, which keeps no checksums.
        return
    actual = _sha256(path)
    if actual != expected["sha256"]:
        raise DMFormerError(
            f"{path} is altered or incomplete: its SHA-256 is {actual[:12]}..., but "
            f"{METADATA_FILE} says {expected['sha256'][:12]}...; copy or save the preset again."
        )


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(folder, backbone, task, metadata, half_precision=False):
    """Writes every file beside the folder's present ones, then renames them into place."""
    folder = Path(folder)
    try:
        json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise DMFormerError(
            f"The metadata cannot be stored as JSON ({error}); pass strings, numbers, lists and "
            "dictionaries of them."
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=SAVING, dir=folder))
    except OSError as error:
        raise DMFormerError(
            f"The preset cannot be written to {str(folder)!r} ({error.strerror}); choose a "
            "folder that can be made and written."
        ) from error
    try:
        _write_files(beside, backbone, task, metadata, half_precision)
        written = {path.name for path in beside.iterdir()}
        stale = {TASK_FILE, TASK_WEIGHTS_FILE, PREPROCESSOR_FILE, SHARDED_FILE}
        stale |= {path.name for path in folder.glob("model_*.weights.h5")}
        for name in stale - written:
            (folder / name).unlink(missing_ok=True)
        for path in sorted(beside.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_files(folder, backbone, task, metadata, half_precision):
    _write_json(folder / CONFIG_FILE, _preset_config(backbone))
    _write_json(folder / CONVERTER_FILE, _converter_config(backbone))
    backbone.save_weights(folder / WEIGHTS_FILE)
    parameters = backbone.count_params()
    if task is not None:
        model, config = task
        _write_json(folder / TASK_FILE, _task_config(model, config))
        model.head.save_weights(folder / TASK_WEIGHTS_FILE)
        parameters = model.count_params()
    if half_precision:
        for path in folder.glob("*.weights.h5"):
            _store_kernels_in_half(path)
    files = {
        path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.glob("*.weights.h5"))
    }
    _write_json(
        folder / METADATA_FILE,
        {
            **metadata,
            "parameters": parameters,
            "keras_version": keras.__version__,
            "date_saved": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": files,
        },
    )


def _store_kernels_in_half(path):
    """Rewrites a file of weights with its kernels in float16, which Keras loads as any other."""
    import h5py

    def copied(source, target):
        target.attrs.update(source.attrs)
        for name, item in source.items():
            if isinstance(item, h5py.Group):
                copied(item, target.create_group(name))
                continue
            half = item.ndim > 1 and item.dtype == np.float32
            values = item[()].astype(np.float16) if half else item[()]
            target.create_dataset(name, data=values).attrs.update(item.attrs)

    smaller = path.with_suffix(".half")
    with h5py.File(path) as source, h5py.File(smaller, "w") as target:
        copied(source, target)
    os.replace(smaller, path)


def _preset_config(backbone):
    """Returns the backbone's config with what KerasHub and KerasCV read in the file."""
    config = {**_serialized(backbone), "weights": WEIGHTS_FILE}
    # How training saved memory on one machine is nothing to others, who would pay in time.
    del config["config"]["gradient_checkpointing"]
    if config["registered_name"] in (PLAIN_NAME, KERAS_CV_NAME):
        # KerasHub builds the class of this name, its own. Where KerasHub is not imported
        # nothing has it, and Keras falls back to `module` and `class_name`.
        config |= {"module": "dmformer_keras.backbone", "registered_name": KERAS_HUB_NAME}
    if backbone.dtype_policy.compute_dtype != backbone.dtype_policy.variable_dtype:
        # KerasHub fails on a mixed policy in a file.
        config |= {"mixed_precision": config["config"]["dtype"]}
        config["config"]["dtype"] = None
    return config


def _task_config(model, arguments):
    """Returns the description of a task, of our class, with what KerasHub's class needs too."""
    cls = getattr(model, "plain_class", type(model))
    backbone = _preset_config(model.backbone)
    del backbone["weights"]
    return {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "config": {**arguments, "head": cls.__name__, "backbone": backbone},
        "registered_name": KERAS_HUB_TASKS.get(cls.__name__, keras.saving.get_registered_name(cls)),
    }


def _converter_config(backbone):
    """Returns the description of what KerasHub prepares images by: their size, if there is one."""
    shape = backbone.input.shape[1:]
    spatial = shape[:2] if backbone.data_format == "channels_last" else shape[1:]
    size = None if None in spatial else list(spatial)
    return {
        "module": "dmformer_keras.integrations.keras_hub_tasks",
        "class_name": "DMFormerImageConverter",
        "config": {"image_size": size, "data_format": backbone.data_format},
        "registered_name": "dmformer_keras>KerasHubDMFormerImageConverter",
    }


def _serialized(model):
    """Returns Keras's own description of a model, less what only a compiled one needs."""
    config = keras.saving.serialize_keras_object(model)
    return {key: config[key] for key in ("module", "class_name", "config", "registered_name")}


def _write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
