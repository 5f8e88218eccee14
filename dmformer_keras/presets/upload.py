"""Puts a preset on the Hugging Face Hub, with a model card that the Hub reads."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmformer_keras.errors import DMFormerError
from dmformer_keras.presets.download import (
    FILES,
    KAGGLE_SCHEME,
    SCHEME,
    hub_library,
    is_address,
    repository_of,
    stated_errors,
)
from dmformer_keras.presets.finding import read_preset
from dmformer_keras.presets.folder import METADATA_FILE, Preset, verify_checksum
from dmformer_keras.presets.markdown import code, escaped, fenced
from dmformer_keras.system.files import read_regular_text, stated_write_errors
from dmformer_keras.system.secrets import without_secrets
from dmformer_keras.task_table import TASKS
from dmformer_keras.type_names import PathLike

_CARD_FILE = "README.md"


def upload_preset(
    name: str,
    preset: PathLike,
    *,
    licence: str | None = None,
    private: bool = False,
    say: Callable[[str], Any] | None = None,
) -> str:
    """Puts a preset on the Hub, with a model card.

    Log in before, by `hf auth login` or the environment variable `HF_TOKEN`. Files in the
    repository that the preset has not are left. Only files that a preset consists of go up, and no
    links to files elsewhere; tokens and passwords in a recorded command are left out.

    Args:
        name: str, "hf://user/repository"; made if it is not there.
        preset: str or path, the folder of a preset with weights, as `save_to_preset` or `dmformer
            package` has written it, or a built-in name.
        licence: str or None, the Hub's name of a licence, such as "apache-2.0" or "other", for
            the card.
        private: bool, whether only its owner sees a repository that is made.
        say: function that is given the list of the files before they go up, or None.

    Returns:
        str, where it is.

    Raises:
        DMFormerError: the preset has no weights, a file of it is a link to one elsewhere, the Hub
            refuses, or huggingface_hub is not installed.
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
    files = _files_of(found)
    texts = {_CARD_FILE: without_secrets(model_card(found, repository, licence))}
    if METADATA_FILE in files:
        texts[METADATA_FILE] = without_secrets(read_regular_text(files[METADATA_FILE]))
    hub = hub_library()
    with tempfile.TemporaryDirectory() as folder:
        with stated_write_errors(folder, sum(path.stat().st_size for path in files.values())):
            for file, path in files.items():
                shutil.copyfile(path, Path(folder) / file)
            for file, text in texts.items():
                (Path(folder) / file).write_text(text, encoding="utf-8")
        if say:
            say(_listed(folder, name))
        with stated_errors(hub, name):
            api = hub.HfApi()
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"Preset {repository}"
            )
    return str(address)


def _files_of(preset):
    """{name: path} of the files that a preset consists of, regular ones of its own folder."""
    home = preset.folder.resolve()
    found = {}
    for name in FILES:
        path = preset.folder / name
        if not path.exists() and not path.is_symlink():
            continue
        # The Hub's own cache consists of links.
        linked = path.resolve().parent != home and not is_address(preset.name)
        if linked or not path.is_file():
            reason = "a link to a file elsewhere" if linked else "no regular file"
            raise DMFormerError(
                f"{str(path)!r} is {reason}, which is not published; put the file itself there, or "
                "remove it."
            )
        found[name] = path
    return found


def _listed(folder, name):
    paths = sorted(Path(folder).iterdir())
    lines = [f"  {path.name}  {path.stat().st_size:,} bytes" for path in paths]
    return "\n".join([f"These {len(lines)} files go to {name}:", *lines])


def model_card(preset: Preset, repository: str, licence: str | None = None) -> str:
    """Writes the card of a preset in the Hub's form: its own, or one from its metadata.

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
    own = preset.path("README.md")
    address = SCHEME + repository
    if own.is_file():
        body = _of_address(read_regular_text(own), preset, address)
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
    facts = "".join(
        f"| {key} | {code(json.dumps(value, ensure_ascii=False))} |\n"
        for key, value in told.items()
    )
    use = f"from dmformer_keras import {name}\n\nmodel = {name}.from_preset({json.dumps(address)})"
    description = escaped(str(metadata.get("description", "A DMFormer model.")))
    return (
        f"# {escaped(address.rpartition('/')[2])}\n\n{description}\n\n{fenced(use, 'python')}\n\n"
        f"| | |\n|---|---|\n{facts}"
    )
