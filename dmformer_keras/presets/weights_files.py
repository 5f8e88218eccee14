"""Checks files of weights before Keras reads them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dmformer_keras.errors import DMFormerError, shortened

# Values beyond a model's weights that its file may hold, for each of them: optimizers keep some.
_COPIES = 8
_MOST_ENTRIES = 100_000
# What a compiled model's file holds that is no weight of the model.
_OTHERS = ("optimizer", "_optimizer")
# All ones in NaN and infinity.
_BFLOAT16_EXPONENT = 0x7F80


def check_weights(file: str | os.PathLike[str] | BinaryIO, path: Path, count: int) -> None:
    """Refuses files of weights that are damaged, or hold what a model cannot be made of.

    Args:
        file: str or path of an HDF5 file, or one that is open.
        path: Path, to name it by.
        count: int, the values that the model's weights have.

    Raises:
        DMFormerError: it is no HDF5 file or damaged, holds values that are no finite real numbers,
            far more than the model has, or leads to other files.
    """
    import h5py

    try:
        with h5py.File(file, "r") as opened:
            for name, values in _datasets(opened, path, _COPIES * (count + 1000)):
                if name.split("/")[1] not in _OTHERS:
                    _check_values(name, values, path)
    except DMFormerError:
        raise
    except Exception as error:  # h5py raises errors of many kinds for damaged files
        raise DMFormerError(
            f"The weights {path} are damaged or no HDF5 file ({shortened(error, 150)}); copy or "
            "save them again."
        ) from error


def _datasets(opened: Any, path: Path, most: int) -> Iterator[tuple[str, Any]]:
    """Yields what an HDF5 file holds, each dataset once."""
    import h5py

    groups, seen, total = [opened], set(), 0
    while groups:
        group = groups.pop()
        for key in group:
            is_hard = isinstance(group.get(key, getlink=True), h5py.HardLink)
            item: Any = group[key] if is_hard else None
            is_own = isinstance(item, h5py.Group) or (
                isinstance(item, h5py.Dataset) and not (item.external or item.is_virtual)
            )
            if not is_own:
                raise DMFormerError(
                    f"The weights {path} lead to another place at {key[:60]!r}, where numbers were "
                    "expected; save them again."
                )
            identity = h5py.h5o.get_info(item.id).addr
            if identity in seen:
                continue
            seen.add(identity)
            if isinstance(item, h5py.Group):
                groups.append(item)
                continue
            total += item.size or 0
            if total > most or len(seen) > _MOST_ENTRIES:
                raise DMFormerError(
                    f"The weights {path} hold far more values than the model has weights: they are "
                    "of another model, or damaged; copy or save them again."
                )
            yield item.name, item


def _check_values(name: str, dataset: Any, path: Path) -> None:
    kind = dataset.dtype.kind
    # The one type that NumPy has not is stored as bytes.
    is_bfloat16 = dataset.attrs.get("dtype") == "bfloat16" and dataset.dtype == "V2"
    if kind not in "fiub" and not is_bfloat16:
        raise DMFormerError(
            f"The weights {path} hold values of type {dataset.dtype} at {name[:100]!r}, where real "
            "numbers were expected; save them again."
        )
    if (is_bfloat16 or kind == "f") and not _are_finite(np.asarray(dataset[()]), is_bfloat16):
        raise DMFormerError(
            f"The weights {path} hold values that are no finite numbers (NaN or infinite) at "
            f"{name[:100]!r}; train the model again at a lower learning rate, or in float32."
        )


def _are_finite(values: np.ndarray, are_bfloat16: bool) -> bool:
    if are_bfloat16:
        return bool(((values.view(np.uint16) & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT).all())
    with np.errstate(over="ignore"):  # of what float32 has no numbers for
        return bool(np.isfinite(values.astype(np.float32, copy=False)).all())
