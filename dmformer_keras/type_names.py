"""Names of types that annotations of several modules use. Nothing here is needed to run."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from dmformer_keras.classifier import DMFormerClassifier
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
