"""What a preset's folder holds, and how it is read.

    config.json        the backbone: its class and the arguments of its constructor
    model.weights.h5   the backbone's weights (may be absent)
    task.json          the head on the backbone, for a classifier or a segmenter
    task.weights.h5    the head's weights
    metadata.json      sizes, versions, and the SHA-256 of each file above
    image_converter.json   for KerasHub: the size that images are brought to
    preprocessor.json      of KerasHub's tasks, where one of them has written the folder

This is the layout of KerasHub's presets plus the checksums. Nothing in a folder is
executed: only known arguments of known classes are read from it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from dmformer_keras.errors import DAMAGE, DMFormerError, shortened, shown
from dmformer_keras.system.files import read_regular_text

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
TASK_FILE = "task.json"
TASK_WEIGHTS_FILE = "task.weights.h5"
METADATA_FILE = "metadata.json"
CONVERTER_FILE = "image_converter.json"
PREPROCESSOR_FILE = "preprocessor.json"
SHARDED_FILE = "model.weights.json"

# The registered names of the backbone: this package's class, and each library's.
PLAIN_NAME = "dmformer_keras>DMFormerBackbone"
KERAS_CV_NAME = "dmformer_keras>KerasCVDMFormerBackbone"
KERAS_HUB_NAME = "dmformer_keras>KerasHubDMFormerBackbone"


class Preset(NamedTuple):
    """A preset that was found: what to build, and where its weights are."""

    name: str
    config: dict
    metadata: dict
    folder: Path | None
    task: dict | None
    # The registered name of the backbone's class, if a user wrote it.
    backbone_class: str | None = None

    @property
    def has_weights(self) -> bool:
        """Whether it holds the backbone's weights."""
        return self.holds(WEIGHTS_FILE)

    def holds(self, name: str) -> bool:
        """Tells whether the folder has a file, or its metadata says that it should."""
        if self.folder is None:
            return False
        return name in self.metadata.get("files", {}) or (self.folder / name).is_file()

    def path(self, name: str) -> Path:
        """Returns where a file of the folder is."""
        if self.folder is None:
            raise DMFormerError(
                f"{self.name!r} is an architecture without files; choose a preset with weights."
            )
        return self.folder / name


def read_folder(folder, address=None):
    """Returns the Preset in a folder, which was fetched from an address, or None."""
    config = _read_json(folder / CONFIG_FILE, folder)
    if not isinstance(config.get("config"), dict):
        raise DMFormerError(
            f"{folder / CONFIG_FILE} holds no model: expected the config that save_to_preset "
            "writes; save the preset again."
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
    shape = backbone.get("input_shape")
    if shape is not None and not (isinstance(shape, list) and len(shape) == 3):
        raise DMFormerError(
            f"{folder / CONFIG_FILE} must have an input_shape of three numbers or null, not "
            f"{shown(shape)}; save the preset again."
        )
    if isinstance(backbone.get("dtype"), dict):
        backbone["dtype"] = _policy_name(backbone["dtype"], folder / CONFIG_FILE)
    preset = Preset(
        name=address or str(folder),
        config=backbone,
        metadata=_read_metadata(folder),
        folder=folder,
        task=_read_task(folder),
        backbone_class=_own_class(config),
    )
    if address is not None:
        _check_is_whole(preset)
    _check_belongs_together(preset)
    return preset


def _check_belongs_together(preset):
    """Refuses a mixture of two presets' files, which a killed save leaves.

    The weights are checked when they are read. Presets of earlier versions list nothing else.
    """
    listed = preset.metadata.get("files", {})
    for name in (CONFIG_FILE, TASK_FILE):
        if name in listed:
            verify_checksum(preset.folder / name, preset)
    if preset.task is None and TASK_WEIGHTS_FILE in listed:
        raise DMFormerError(
            f"{preset.folder / TASK_FILE} is missing, though {METADATA_FILE} lists its weights; "
            "copy or save the preset again."
        )
    if preset.task is not None and CONFIG_FILE in listed and TASK_FILE not in listed:
        raise DMFormerError(
            f"{preset.folder / TASK_FILE} belongs to another preset: {METADATA_FILE} does not list "
            "it; remove it, or save the preset again."
        )


def _own_class(config):
    name, registered_name = config.get("class_name"), config.get("registered_name")
    if name == "DMFormerBackbone" and registered_name in (
        None,
        PLAIN_NAME,
        KERAS_CV_NAME,
        KERAS_HUB_NAME,
    ):
        return None
    return registered_name or name or "model without a class"


def _policy_name(dtype, path):
    """Returns the name of a serialized dtype policy: nothing else is built from the file."""
    name = dtype["config"].get("name") if isinstance(dtype.get("config"), dict) else None
    if dtype.get("class_name") != "DTypePolicy" or not isinstance(name, str):
        raise DMFormerError(
            f"{path} has a dtype that is no plain policy: {shown(dtype.get('class_name'))}; save "
            'the model with a dtype policy such as "float32" or "mixed_bfloat16".'
        )
    return name


def _read_metadata(folder):
    path = folder / METADATA_FILE
    if not path.is_file():
        return {}
    metadata = _read_json(path, folder)
    files = metadata.setdefault("files", {})
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and Path(name).name == name
        for name, entry in files.items()
    ):
        raise DMFormerError(
            f'{path} is damaged: "files" must give a "sha256" for each file of the folder; copy or '
            "save the preset again."
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
        content = json.loads(read_regular_text(path))
    except FileNotFoundError:
        raise DMFormerError(
            f"Folder {str(folder)!r} is no preset: it has no {path.name}; give a folder written "
            "by save_to_preset."
        ) from None
    except DAMAGE as error:
        raise DMFormerError(
            f"{path} cannot be read as JSON ({shortened(error, 150)}); save it again."
        ) from None
    if not isinstance(content, dict):
        raise DMFormerError(f"{path} must hold a JSON object; save the preset again.")
    for name in ("class_name", "registered_name"):
        if not isinstance(content.get(name), str | None):
            raise DMFormerError(
                f"{path} must have a str as {name}, not {shown(content[name])}; save the preset "
                "again."
            )
    return content


def image_shape(config: dict[str, Any]) -> tuple[int | None, int | None, int]:
    """Returns what a backbone's config says of its images, whatever its data format.

    Args:
        config: dict of `DMFormerBackbone`'s arguments.

    Returns:
        `(height, width, channels)`; height and width are `None` where any will do.
    """
    import keras  # not above: presets are looked up before Keras is started, too

    shape = config.get("input_shape")
    if shape is None:
        return (None, None, 3)
    data_format = config.get("data_format") or keras.config.image_data_format()
    return (*shape[1:], shape[0]) if data_format == "channels_first" else tuple(shape)


def verify_checksum(path: Path, preset: Preset) -> None:
    """Checks a file against what its preset's metadata says of it.

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
        # Written by another library, without checksums.
        return
    size = path.stat().st_size
    if expected.get("bytes") not in (None, size):
        raise DMFormerError(
            f"{path} is altered or incomplete: it has {size:,} bytes, but {METADATA_FILE} says "
            f"{expected['bytes']}; copy or save the preset again."
        )
    actual = sha256(path)
    if actual != expected["sha256"]:
        raise DMFormerError(
            f"{path} is altered or incomplete: its SHA-256 is {actual[:12]}..., but "
            f"{METADATA_FILE} says {expected['sha256'][:12]}...; copy or save the preset again."
        )


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_is_whole(preset):
    """Refuses a preset that lacks a file, whose weights would be random.

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


def check_is_trained(preset):
    """Checks that a preset holds a whole model with weights."""
    if not preset.has_weights:
        raise DMFormerError(
            f"{preset.name!r} is an architecture without weights; train it first, or give the "
            "folder of a trained model."
        )
    if preset.task is None or not (preset.folder / TASK_WEIGHTS_FILE).is_file():
        raise DMFormerError(
            f"{preset.name!r} holds a backbone without a trained head; give the folder of a "
            "trained classifier or segmenter, or train one from it with `dmformer train --preset`."
        )
