"""From a model to a preset's folder, which at every moment is whole, or refused by its readers."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.presets.folder import (
    CONFIG_FILE,
    CONVERTER_FILE,
    METADATA_FILE,
    PREPROCESSOR_FILE,
    SHARDED_FILE,
    TASK_FILE,
    TASK_WEIGHTS_FILE,
    WEIGHTS_FILE,
    sha256,
)
from dmformer_keras.presets.keras_hub_format import converter_config, preset_config, task_config
from dmformer_keras.system.files import stated_write_errors, stored_bytes
from dmformer_keras.system.scratch import scratch_folder
from dmformer_keras.type_names import PathLike

# The prefix of the folder with the new files, beside the files that they will replace.
SAVING = ".saving-"


def save_backbone(
    backbone: keras.Model, folder: PathLike, metadata: dict[str, Any] | None = None
) -> None:
    """Writes a backbone's preset; see `DMFormerBackbone.save_to_preset`."""
    _save(folder, backbone, None, metadata or {})


def save_task(
    model: keras.Model,
    task_config: dict[str, Any],
    folder: PathLike,
    metadata: dict[str, Any] | None = None,
    half_precision: bool = False,
) -> None:
    """Writes a task model's preset: its backbone, its head, and both their weights.

    Half precision is of what is large, kernels: scales, biases and BatchNorm's statistics,
    some of which float16 has no numbers for, stay as they are.
    """
    _save(folder, model.backbone, (model, task_config), metadata or {}, half_precision)


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
    model = backbone if task is None else task[0]
    _check_finite(model)
    # In half precision, the file and its copy exist at the same time.
    needed = stored_bytes(model.weights) * (1.5 if half_precision else 1)
    with stated_write_errors(folder, needed):
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder, SAVING) as beside:
            _write_files(beside, backbone, task, metadata, half_precision)
            _put_in_place(beside, folder)


def _check_finite(model):
    """Readers refuse weights that are no numbers; refusing to write them keeps what is there."""
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise DMFormerError(
                f"The weight {weight.path} holds values that are no finite numbers (NaN or "
                "infinite), which no one could load; go back to weights from before that."
            )


def _put_in_place(beside, folder):
    """Moves the files of a preset to its folder, and removes what was there of another.

    The metadata first: it says what belongs together. Until the last step readers find that
    another file is not what it lists, or that it does not list one, and refuse.
    """
    written = sorted(path.name for path in beside.iterdir())
    for name in sorted(written, key=lambda name: name != METADATA_FILE):
        os.replace(beside / name, folder / name)
    stale = {TASK_FILE, TASK_WEIGHTS_FILE, PREPROCESSOR_FILE, SHARDED_FILE}
    stale |= {path.name for path in folder.glob("model_*.weights.h5")}
    for name in sorted(stale - set(written)):
        (folder / name).unlink(missing_ok=True)


def _write_files(folder, backbone, task, metadata, half_precision):
    _write_config(folder / CONFIG_FILE, backbone, lambda: preset_config(backbone))
    _write_json(folder / CONVERTER_FILE, converter_config(backbone))
    backbone.save_weights(folder / WEIGHTS_FILE)
    parameters = backbone.count_params()
    if task is not None:
        model, config = task
        _write_config(folder / TASK_FILE, model, lambda: task_config(model, config))
        model.head.save_weights(folder / TASK_WEIGHTS_FILE)
        parameters = model.count_params()
    if half_precision:
        for path in folder.glob("*.weights.h5"):
            _store_kernels_in_half(path)
    checked = [folder / CONFIG_FILE, folder / TASK_FILE, *folder.glob("*.weights.h5")]
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(checked)
        if path.is_file()
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
            values = item[()]
            half = item.ndim > 1 and item.dtype == np.float32
            # Values outside the range of float16 stay as they are.
            if half and np.abs(values).max(initial=0) <= np.finfo(np.float16).max:
                values = values.astype(np.float16)
            target.create_dataset(name, data=values).attrs.update(item.attrs)

    smaller = path.with_suffix(".half")
    with h5py.File(path) as source, h5py.File(smaller, "w") as target:
        copied(source, target)
    os.replace(smaller, path)


def _write_config(path, model, describe):
    try:
        _write_json(path, describe())
    except (TypeError, ValueError) as error:
        raise DMFormerError(
            f"{type(model).__name__}'s get_config cannot be stored as JSON "
            f"({shortened(error, 150)}); let it return strings, numbers, lists and dictionaries of "
            "them."
        ) from error


def _write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
