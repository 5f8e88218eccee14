"""Exported files as models that run, predict and can be evaluated, without Keras."""

import collections
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmformer_keras.checks import check_positive_int, is_positive_int
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export import runners
from dmformer_keras.export.quiet import quiet_stderr
from dmformer_keras.export.runners import DESCRIPTION_FILE
from dmformer_keras.exported_files import SUFFIXES
from dmformer_keras.type_names import PathLike

# The other files that an export writes beside or into its file.
LABELS_FILE = "labels.txt"


def side_files(description):
    """Returns the files that travel inside an export which holds files: a dict {name: text}: the
    description, and the class names if there are any, a line for each output.
    """
    files = {DESCRIPTION_FILE: json.dumps(description, indent=1)}
    if has_labels(description):
        lines = (" ".join(name.split()) for name in description["class_names"])
        files[LABELS_FILE] = "".join(f"{line}\n" for line in lines)
    return files


def has_labels(description: dict[str, Any]) -> bool:
    """Tells whether an export has a name for each output: not where one is of two classes."""
    return bool(description["class_names"]) and "threshold" not in description["output"]


def load_exported(path: PathLike, threads: int | None = None) -> "ExportedModel":
    """Loads a file that `to_tflite`, `to_onnx`, `to_openvino` or `to_saved_model` wrote.

    Args:
        path: str or path: a `.tflite`, `.onnx` or `.xml` file, or the folder of a SavedModel.
        threads: positive int, or None for the number of processors. Of a SavedModel
            TensorFlow's own setting counts.

    Returns:
        ExportedModel.

    Raises:
        DMFormerError: there is no such file, it is of another kind or damaged, or what runs
            it is not installed.

    Example:

    >>> load_exported("classifier.tflite").class_names  # doctest: +SKIP
    """
    path = Path(path)
    kind = "" if path.is_dir() else path.suffix
    if not path.exists():
        raise DMFormerError(f"There is no file {str(path)!r}; give the path of an exported model.")
    file = path if kind else path / "saved_model.pb"
    if kind not in _RUNNERS or not file.is_file():
        raise DMFormerError(
            f"{path} is no exported model; give a .tflite, .onnx or .xml file, or the folder of a "
            "SavedModel."
        )
    if threads is not None:
        check_positive_int("threads", threads)
    package, runner, format_name = _RUNNERS[kind]
    try:
        with quiet_stderr():
            return ExportedModel(path, format_name, runner(path, threads or os.cpu_count()))
    except ImportError as error:
        raise DMFormerError(
            f"{path} is run by {package}, which is not installed: pip install {package}."
        ) from error
    except DMFormerError:
        raise
    except Exception as error:  # each runtime has its own exceptions
        raise DMFormerError(
            f"{path} cannot be run as {format_name} ({shortened(error, 150)}); it is damaged, or "
            "made for another runtime: export the model again."
        ) from error


def check_runner(path):
    """Checks that the runtime of a kind of exported file is installed."""
    package, _, _ = _RUNNERS[path.suffix]
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise DMFormerError(
            f"{path} is run by {package}, which is not installed: pip install {package}; or export "
            "with verify=False."
        )


class ExportedModel:
    """A file that runs, with what an evaluation or a prediction asks of a Keras model.

    `load_exported` makes it.

    Attributes:
        path: Path.
        format: str, "TFLite", "ONNX", "OpenVINO" or "SavedModel".
        description: dict, what `to_tflite` and the others wrote of the model; empty for a
            file of another origin.
        class_names: list of str or None.
        class_colors: list of (r, g, b) or None.
        activation: str, of the output: "linear" for logits.
        num_classes: int, how many values it gives for an image or a pixel.
    """

    def __init__(self, path: Path, format_name: str, runner: Any) -> None:
        self.path = path
        self.name = path.stem
        self.format = format_name
        self.description = _checked_description(runner.description)
        self._runner = runner
        self.inputs = [keras.KerasTensor(runner.input_shape, name="images")]
        self.outputs = [keras.KerasTensor(runner.output_shape, name="outputs")]
        self.class_names = self.description.get("class_names")
        colors = self.description.get("class_colors")
        self.class_colors = colors and [tuple(color) for color in colors]
        self.activation = self.description.get("output", {}).get("activation", "linear")

    @property
    def input(self) -> keras.KerasTensor:
        """The input, a `keras.KerasTensor` with `None` for open sides."""
        return self.inputs[0]

    @property
    def output(self) -> keras.KerasTensor:
        """The output, likewise."""
        return self.outputs[0]

    @property
    def num_classes(self) -> int:
        """Int: how many values the model gives for an image, or for each of its pixels."""
        return self.output.shape[-1]

    def operators(self) -> dict[str, int]:
        """Counts the operators of the file.

        Returns:
            dict {str: int}, the most frequent first; empty for a SavedModel.
        """
        return dict(collections.Counter(self._runner.operators()).most_common())

    def taking_pixels(self) -> "ExportedModel":
        """This model for images in 0..255, as a model with rescaling inside takes them.

        Returns:
            ExportedModel: itself, or one that scales the images before it runs the same file.
        """
        values = self.description.get("input", {})
        mean, std = values.get("mean", 0.0), values.get("std", 1.0)
        if (mean, std) == (0.0, 1.0):
            return self
        return ExportedModel(self.path, self.format, runners.Scaled(self._runner, mean, std))

    def predict_on_batch(self, images: ArrayLike) -> NDArray[np.float32]:
        """Runs the file on images.

        Args:
            images: array (count, height, width, channels), as the model takes them.

        Returns:
            float32 array (count, ...).

        Raises:
            DMFormerError: the images do not fit the file, or it is damaged.
        """
        images = np.asarray(images, np.float32)
        expected = self.input.shape
        fits = images.ndim == 4 and all(
            size in (None, given)
            for size, given in zip(expected[1:], images.shape[1:], strict=True)
        )
        if not fits or not len(images):
            raise DMFormerError(
                f"{self.path} takes one or more images of shape {expected[1:]}, not an array of "
                f"shape {images.shape}; resize them or export with another input_shape."
            )
        batch = expected[0] or len(images)
        outputs = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            # With a fixed batch size, the last batch repeats images.
            full = np.resize(part, (batch, *part.shape[1:]))
            outputs.append(self._run(full)[: len(part)])
        return np.concatenate(outputs)

    def _run(self, images):
        try:
            return self._runner.run(images)
        except (DMFormerError, MemoryError):
            raise
        except Exception as error:  # each runtime has its own exceptions
            raise DMFormerError(
                f"{self.path} does not run on images of shape {images.shape} "
                f"({shortened(error, 150)}); if other images do not work, either, it is damaged: "
                "export the model again."
            ) from error

    def predict(
        self, images: NDArray[Any], batch_size: int = 32, verbose: Any = 0
    ) -> NDArray[np.float32]:
        """Runs the file on images, `batch_size` at a time, as `keras.Model.predict` does.

        Args:
            images: array (count, height, width, channels).
            batch_size: positive int.
            verbose: ignored.

        Returns:
            float32 array (count, ...).
        """
        if not is_positive_int(batch_size) or not len(images):
            raise DMFormerError(
                f"predict takes one or more images and a positive batch_size, not {len(images)} "
                f"and {batch_size!r}."
            )
        starts = range(0, len(images), batch_size)
        return np.concatenate(
            [self.predict_on_batch(images[start : start + batch_size]) for start in starts]
        )


def _checked_description(found):
    """Returns what a file says of itself, or raises a ValueError where it was not written here."""
    if found is None:
        return {}
    right = isinstance(found, dict) and all(
        isinstance(found.get(part, {}), dict) for part in ("input", "output")
    )
    if right:
        numbers = [found.get("input", {}).get(name, 1.0) for name in ("mean", "std")]
        names, colors = found.get("class_names") or [], found.get("class_colors") or []
        right = (
            all(isinstance(number, int | float) for number in numbers)
            and isinstance(found.get("output", {}).get("activation", ""), str)
            and isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and isinstance(colors, list)
            and all(isinstance(color, list) and len(color) == 3 for color in colors)
        )
    if not right:
        raise ValueError(f"its {DESCRIPTION_FILE} is of another kind")
    return found


_RUNNERS = {
    SUFFIXES["tflite"]: ("ai-edge-litert", runners.TFLite, "TFLite"),
    SUFFIXES["onnx"]: ("onnxruntime", runners.Onnx, "ONNX"),
    SUFFIXES["openvino"]: ("openvino", runners.OpenVINO, "OpenVINO"),
    SUFFIXES["saved_model"]: ("tensorflow", runners.SavedModel, "SavedModel"),
}
