"""Presets from the Hugging Face Hub (`hf://user/repository`, and `@revision` where it matters) and
from Kaggle (`kaggle://user/model/keras/variation`, and `/version`).

The libraries `huggingface_hub` and `kagglehub` do the work: downloads are cached, resumed and
checked against the digests of the place they come from; `HF_HUB_OFFLINE=1`, and on Kaggle an
address with a version, read the cache alone. This package checks the weights once more against
the preset's SHA-256 when it loads them, and executes nothing in a preset.
"""

import contextlib
import re
from pathlib import Path

from dmformer_keras.errors import DMFormerError, shortened

SCHEME = "hf://"
KAGGLE_SCHEME = "kaggle://"
# What a preset may consist of: nothing else is fetched from the Hub, or sent to it.
FILES = (
    "config.json", "model.weights.h5", "task.json", "task.weights.h5", "metadata.json",
    "image_converter.json", "preprocessor.json",
    "README.md", "history.csv", "curves.png", "confusion_matrix.png",
)  # fmt: skip


def is_address(name: str) -> bool:
    """Tells whether a preset's name is an address that `download_preset` takes."""
    return name.startswith((SCHEME, KAGGLE_SCHEME))


def download_preset(name: str) -> Path:
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


def _from_hub(name):
    repository, revision = repository_of(name)
    hub = hub_library()
    with stated_errors(hub, name):
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES))
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


def repository_of(name):
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


def hub_library():
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise DMFormerError(
            'Presets on the Hub need huggingface_hub: pip install "dmformer-keras[hub]".'
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def stated_errors(hub, name):
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
