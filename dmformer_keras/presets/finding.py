"""A preset by its name, its folder or its address."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from dmformer_keras.architectures import ARCHITECTURES
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.presets.download import download_preset, is_address
from dmformer_keras.presets.folder import CONFIG_FILE, Preset, read_folder
from dmformer_keras.type_names import PathLike


def list_presets() -> dict[str, dict[str, Any]]:
    """Returns `{name: metadata}` of the architectures and of the shipped presets."""
    shipped = {folder.name: read_preset(folder).metadata for folder in _shipped_folders()}
    return {name: entry["metadata"] for name, entry in ARCHITECTURES.items()} | shipped


def read_preset(preset: PathLike | Preset) -> Preset:
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
        raise DMFormerError(f"A preset is given by its name or folder, not by {shown(preset)}.")
    if is_address(name):
        return read_folder(download_preset(name), address=name)
    shipped = {folder.name: folder for folder in _shipped_folders()}
    if name in shipped:
        return read_folder(shipped[name])
    if name in ARCHITECTURES:
        entry = ARCHITECTURES[name]
        return Preset(name, dict(entry["config"]), entry["metadata"], None, None)
    if Path(name).is_dir():
        return read_folder(Path(name))
    names = [*ARCHITECTURES, *shipped]
    nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    hint = f"did you mean {nearest[0]!r}? Or " if nearest else ""
    if Path(name).is_file():
        raise DMFormerError(
            f"{name!r} is a file, and a preset is a folder; save the model with save_to_preset "
            "and give that folder."
        )
    raise DMFormerError(
        f"There is no preset or folder {name!r}; {hint}choose a built-in preset: "
        f"{', '.join(names)}."
    )


def weights_folder() -> Path:
    """Returns the folder of shipped presets: in an installed package, or in its checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "weights"
    return inside if inside.is_dir() else package.parent / "weights"


def _shipped_folders():
    return sorted(path.parent for path in weights_folder().glob(f"*/{CONFIG_FILE}"))
