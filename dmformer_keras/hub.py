"""Presets on the Hugging Face Hub (`hf://user/repository`, and `@revision` where it matters) and
on Kaggle (`kaggle://user/model/keras/variation`, and `/version`).

The libraries `huggingface_hub` and `kagglehub` do the work: downloads are cached, resumed and
checked against the digests of the place they come from; `HF_HUB_OFFLINE=1`, and on Kaggle an
address with a version, read the cache alone. This package checks the weights once more against
the preset's SHA-256 when it loads them, and executes nothing in a preset.
"""

import contextlib
import json
import re
import shutil
import tempfile
from pathlib import Path

from dmformer_keras.errors import DMFormerError, shortened

SCHEME = "hf://"
KAGGLE_SCHEME = "kaggle://"
# What a preset may consist of: nothing else is fetched from the Hub, or sent to it.
_FILES = (
    "config.json", "model.weights.h5", "task.json", "task.weights.h5", "metadata.json",
    "image_converter.json", "preprocessor.json",
    "README.md", "history.csv", "curves.png", "confusion_matrix.png",
)  # fmt: skip
_PIPELINES = {
    "DMFormerClassifier": "image-classification",
    "SemanticFPN": "image-segmentation",
    "UPerNet": "image-segmentation",
}


def is_address(name):
    """Tells whether a preset's name is an address that `download_preset` takes."""
    return name.startswith((SCHEME, KAGGLE_SCHEME))


def download_preset(name):
    """Fetches a preset from the Hugging Face Hub or from Kaggle, or finds it in the cache.

    Args:
        name: str, "hf://user/repository" or "hf://user/repository@revision" (a branch, a tag or
            a commit), "kaggle://user/model/keras/variation" or the same with "/version".

    Returns:
        Path of the folder that holds it.

    Raises:
        DMFormerError: there is no such preset, it cannot be reached and is not in the cache, or
            the library that fetches it is not installed.
    """
    folder = _from_kaggle(name) if str(name).startswith(KAGGLE_SCHEME) else _from_hub(name)
    if not (folder / "config.json").is_file():
        raise DMFormerError(f"{name} holds no preset: there is no config.json in it.")
    return folder


def upload_preset(name, preset, *, licence=None, private=False):
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
    from dmformer_keras.presets import read_preset, verify_checksum

    if str(name).startswith(KAGGLE_SCHEME):
        raise DMFormerError(
            "`dmformer upload` goes to the Hugging Face Hub; to Kaggle a packaged folder is put by "
            f'keras_hub.upload_preset("{name}", FOLDER).'
        )
    repository, revision = _repository(name)
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
    hub = _library()
    with tempfile.TemporaryDirectory() as folder:
        for file in _FILES:
            if (found.folder / file).is_file():
                shutil.copyfile(found.folder / file, Path(folder) / file)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        with _stated_errors(hub, name):
            api = hub.HfApi()
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"Preset {repository}"
            )
    return str(address)


def model_card(preset, repository, licence=None):
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
        "pipeline_tag": _PIPELINES.get(task, "image-feature-extraction"),
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
    name = task if task in _PIPELINES else "DMFormerBackbone"
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


def _from_hub(name):
    repository, revision = _repository(name)
    hub = _library()
    with _stated_errors(hub, name):
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES))
    return Path(folder)


def _from_kaggle(name):
    handle = name.removeprefix(KAGGLE_SCHEME)
    if not re.fullmatch(r"([\w-]+/){3}[\w-]+(/[1-9]\d*)?", handle):
        raise DMFormerError(
            f"{name!r} is no address on Kaggle; give kaggle://user/model/keras/variation, with "
            "/version where it matters."
        )
    try:
        import kagglehub
        from kagglehub import exceptions as errors
    except ImportError as error:
        raise DMFormerError(
            'Presets on Kaggle need kagglehub: pip install "dmformer-keras[hub]".'
        ) from error
    refusals = (OSError, ValueError, errors.UnauthenticatedError, errors.CredentialError,
                errors.BackendError, errors.NotFoundError, errors.DataCorruptionError)  # fmt: skip
    try:
        return Path(kagglehub.model_download(handle))
    except refusals as error:
        raise DMFormerError(f"Kaggle did not give {name}: {shortened(error)}") from error


def _repository(name):
    """("user/repository", revision or None) of an address."""
    repository, _, revision = str(name).removeprefix(SCHEME).partition("@")
    if (
        not str(name).startswith(SCHEME)
        or repository.count("/") != 1
        or not all(repository.split("/"))
        # The library makes a file of a revision's name.
        or ".." in revision
        or revision.startswith("/")
    ):
        raise DMFormerError(
            f"{name!r} is no address on the Hub; give hf://user/repository, with @revision where "
            "it matters."
        )
    return repository, revision or None


def _library():
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise DMFormerError(
            'Presets on the Hub need huggingface_hub: pip install "dmformer-keras[hub]".'
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _stated_errors(hub, name):
    errors = hub.errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise DMFormerError(
            f"{name} is given to those who have asked for it: ask on its page, and log in by `hf "
            "auth login`."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DMFormerError(
            f"There is no {name} on the Hub, or it is private; look for a typing error, or log in "
            "by `hf auth login`."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise DMFormerError(
            f"{name} is not in the cache, and the Hub cannot be reached; try again with a network."
        ) from error
    except errors.HFValidationError as error:
        raise DMFormerError(f"{name!r} is no name of a repository: {shortened(error)}") from error
    except (errors.HfHubHTTPError, OSError, *_transport_errors()) as error:
        raise DMFormerError(f"The Hub did not do it for {name}: {shortened(error)}") from error


def _transport_errors():
    """The errors of the library that newer versions of huggingface_hub ask the Hub by."""
    try:
        import httpx
    except ImportError:
        return ()
    return (httpx.HTTPError,)
