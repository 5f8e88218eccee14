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
# The most bytes of a file: of weights, and of any other.
_LARGEST_WEIGHTS = 2**35
_LARGEST_FILE = 2**26
# What a request ends with that was answered by something else than the Hub, such as the page of a
# hotel's network, and what hf_xet raises.
_OF_OTHER_ANSWERS = (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError)


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
        raise DMFormerError(
            f"{name} holds no preset: there is no config.json in it; look for a "
            "typing error in its name."
        )
    return folder


def _from_hub(name):
    repository, revision = repository_of(name)
    hub = hub_library()
    _check_sizes(hub, name, repository, revision)
    with stated_errors(hub, name):
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES))
    return Path(folder)


def _check_sizes(hub, name, repository, revision):
    """Refuses a repository with a file that is larger than any of a preset, before it comes."""
    try:
        told = hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
    except _failures(hub.errors):
        return  # which the download states, if the cache has nothing, either
    sizes = {file.rfilename: file.size or 0 for file in told.siblings or ()}
    for file in set(FILES) & set(sizes):
        limit = _LARGEST_WEIGHTS if file.endswith(".h5") else _LARGEST_FILE
        if sizes[file] > limit:
            raise DMFormerError(
                f"{file} of {name} has {sizes[file]:,} bytes, over the limit of {limit:,}; it is "
                "no preset of this package, choose another."
            )


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
    try:
        return Path(kagglehub.model_download(handle))
    except _failures(errors) as error:
        raise DMFormerError(
            f"Kaggle did not give {name} ({shortened(error)}); check the spelling, and the network."
        ) from error


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
            f"Access to {name} must be requested: do so on its page, and log in by `hf auth login`."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DMFormerError(
            f"There is no {name} on the Hub, or it is private; check the spelling, or log in "
            "by `hf auth login`."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise DMFormerError(
            f"{name} is not in the cache, and the Hub cannot be reached; try again with a network."
        ) from error
    except errors.HFValidationError as error:
        raise DMFormerError(
            f"{name!r} is no name of a repository ({shortened(error)}); give hf://user/repository."
        ) from error
    except _failures(errors) as error:
        raise DMFormerError(
            f"The Hub refused or did not answer for {name} ({type(error).__name__}: "
            f"{shortened(error, 200)}); check the network, and try again."
        ) from error


def _failures(errors):
    """What a request can end with, by the client's own module of errors.

    That has its own exceptions and imports the base of those of the library that its version asks
    by: requests, httpx or another.
    """
    own = (one for one in vars(errors).values() if isinstance(one, type))
    return (*_OF_OTHER_ANSWERS, *(one for one in own if issubclass(one, Exception)))
