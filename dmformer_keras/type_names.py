"""Names of types that annotations of several modules use. Nothing here is needed to run."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from dmformer_keras.classifier import DMFormerClassifier
    from dmformer_keras.data import ImageSource
    from dmformer_keras.export import ExportedModel
    from dmformer_keras.fusing import FusedModel
    from dmformer_keras.segmenter import Segmenter

PathLike: TypeAlias = str | os.PathLike[str]
ImageSize: TypeAlias = int | Sequence[int]
Image: TypeAlias = Union[PathLike, "PILImage", NDArray[np.uint8]]
# (height, width, channels), or channels first; `None` for a side that may be any.
InputShape: TypeAlias = Sequence[int | None]
Levels: TypeAlias = Sequence[Sequence[int]]
Model: TypeAlias = Union["DMFormerClassifier", "Segmenter", "FusedModel", "ExportedModel"]
# A tensor of whatever backend, a KerasTensor or an array.
Tensor: TypeAlias = Any
# The arguments of a constructor, as `get_config` gives them.
Config: TypeAlias = dict[str, Any]
# (height, width, channels), or (height, width) of class indexes.
Pixels: TypeAlias = NDArray[np.uint8]
# What `open_source` takes, and what an export is calibrated or verified with.
Data: TypeAlias = PathLike | tuple[ArrayLike, ...]
Images: TypeAlias = Union[Data, "ImageSource", ArrayLike, Iterable[ArrayLike]]
