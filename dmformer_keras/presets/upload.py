"""Puts a preset on the Hugging Face Hub, with a model card that the Hub reads."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from dmformer_keras.errors import DMFormerError
from dmformer_keras.presets.download import (
    FILES,
    KAGGLE_SCHEME,
    SCHEME,
    hub_library,
    repository_of,
    stated_errors,
)
from dmformer_keras.presets.finding import read_preset
from dmformer_keras.presets.folder import Preset, verify_checksum
from dmformer_keras.task_table import TASKS
from dmformer_keras.type_names import PathLike


def upload_preset(
    name: str, preset: PathLike, *, licence: str | None = None, private: bool = False
) -> str:
    """Puts a preset on the Hub, with a model card.

    Log in before, by `hf auth login` or the environment variable `HF_TOKEN`. Files in the
    repository that the preset has not are left.

    Args:
        name: str, "hf://user/repository"; made if it is not there.
        preset: str or path, the folder of a preset with weights, as `save_to_preset` or `dmformer
            package` has written it, or a built-in name.
        licence: str or None, the Hub's name of a licence, such as "apache-2.0" or "other", for
            the card.
        private: bool, whether only its owner sees a repository that is made.

    Returns:
        str, where it is.

    Raises:
        DMFormerError: the preset has no weights, the Hub refuses, or huggingface_hub is not
            installed.
    """
    if str(name).startswith(KAGGLE_SCHEME):
        raise DMFormerError(
            "`dmformer upload` goes to the Hugging Face Hub; to Kaggle a packaged folder is put by "
            f'keras_hub.upload_preset("{name}", FOLDER).'
        )
    repository, revision = repository_of(name)
    if revision is not None:
        raise DMFormerError(f"A preset is uploaded to a repository's main branch: leave out the "
                            f"revision of {name!r}.")  # fmt: skip
    found = read_preset(preset)
    if not found.has_weights:
        raise DMFormerError(
            f"The preset {found.name!r} has no weights; train and package a model first."
        )
    for file in found.metadata.get("files", {}):
        verify_checksum(found.folder / file, found)
    card = model_card(found, repository, licence)
    hub = hub_library()
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES:
            if (found.folder / file).is_file():
                shutil.copyfile(found.folder / file, Path(folder) / file)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        with stated_errors(hub, name):
            api = hub.HfApi()
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"Preset {repository}"
            )
    return str(address)


def model_card(preset: Preset, repository: str, licence: str | None = None) -> str:
    """Writes the card of a preset as the Hub reads it: its own, or one of what its metadata says.

    Args:
        preset: Preset, of `read_preset`.
        repository: str, "user/repository".
        licence: str or None, the Hub's name of a licence.

    Returns:
        str, Markdown with the Hub's header.

    Raises:
        DMFormerError: a licence is given, and the card has a header of its own.
    """
    task = (preset.task or {}).get("class_name")
    header = {
        "library_name": "keras",
        "pipeline_tag": TASKS[task].pipeline_tag if task in TASKS else "image-feature-extraction",
        "tags": ["dmformer", "dmformer-keras", "keras-hub"],
        **({"license": licence} if licence else {}),
    }
    # JSON is YAML, and quotes whatever needs it.
    lines = [f"{key}: {json.dumps(value)}" for key, value in header.items()]
    own = preset.folder / "README.md"
    address = SCHEME + repository
    if own.is_file():
        body = _of_address(own.read_text(encoding="utf-8"), preset, address)
    else:
        body = _body(preset, address, task)
    if body.startswith("---\n"):  # of the Hub already
        if licence:
            raise DMFormerError(f"{own} has a header for the Hub: put the licence there.")
        return body
    return "\n".join(["---", *lines, "---", "", body])


def _of_address(card, preset, address):
    """A card whose commands name the preset by another address than the one it was packaged at."""
    name = re.escape(preset.folder.name)
    card = re.sub(rf'(?<=\.from_preset\(")(?:[^"\n]*/)?{name}(?="\))', address, card)
    named = rf"(?:'(?:[^'\n]*/)?{name}'|(?:[^'\s]*/)?{name})"
    command = rf"^(dmformer (?:predict|evaluate)) {named}(?= )"
    return re.sub(command, rf"\1 {address}", card, flags=re.MULTILINE)


def _body(preset, address, task):
    metadata = preset.metadata
    name = task if task in TASKS else "DMFormerBackbone"
    told = {
        key: metadata[key]
        for key in ("parameters", "class_names", "recipe", "metrics", "command")
        if metadata.get(key) is not None
    }
    facts = "".join(f"| {key} | `{json.dumps(value)}` |\n" for key, value in told.items())
    return (
        f"# {address.rpartition('/')[2]}\n\n{metadata.get('description', 'A DMFormer model.')}\n"
        f"\n```python\nfrom dmformer_keras import {name}\n\n"
        f'model = {name}.from_preset("{address}")\n```\n\n| | |\n|---|---|\n{facts}'
    )
