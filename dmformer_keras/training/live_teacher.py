"""A trained model as a teacher: what it says of every training batch, or once of every image."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.inference.model_outputs import is_segmenter
from dmformer_keras.loading import ANY_SIZE, KERAS_SUFFIX, check_keras_file, load_trained
from dmformer_keras.presets import image_shape, is_address, read_preset
from dmformer_keras.system.bars import progress_bar
from dmformer_keras.system.files import WRITING, read_regular_text, written_whole
from dmformer_keras.training.batches import evaluation_batches, stated_data_errors
from dmformer_keras.training.recipe import STUDENT_SIZE
from dmformer_keras.training.teacher import (
    CARD_FILE,
    CLASSES_FILE,
    LOGITS_FILE,
    NAMES_FILE,
    matched_classes,
)
from dmformer_keras.type_names import PathLike, Tensor

if TYPE_CHECKING:
    from dmformer_keras.data import ImageSource

_SMALLEST_PROBABILITY = 1e-7
# Size of the images that a teacher for any size is tried with.
_TRIAL_SIZE = 64
_BATCH_SIZE = 32


class Teacher:
    """A trained classifier or segmenter that predicts for each training batch.

    It sees the images as the student does, changed and mixed, and is not trained.

    Source: Hinton et al. 2015; that the teacher sees the student's own view of an image, Beyer et
    al. 2022 ("A good teacher is patient and consistent"). `keras.distillation.Distiller` is not
    used: it has no matching of classes, no mixed labels, and saves the teacher with each epoch.

    Args:
        model: str or path, a preset with a trained head (a name, a folder, an address) or a
            `.keras` file with any image classifier or segmenter; or such a `keras.Model` itself.
            It takes images in 0..255, channels last, for gray images also those of 3 channels; a
            KerasHub task's own image converter scales them. Logits and probabilities are told apart
            by their values.
        source: ImageSource, the training images.
        temperature: float, positive, that its logits are divided by.
        segments: bool, whether classes of pixels are wanted, not of images.
        image_size: int, height and width in pixels that it sees; "student" for those of the
            batch; None for its own, or those of the batch where it takes any size.
        class_names: sequence of str, of its outputs; a path of a text file with a name per line;
            or None for the model's own `class_names`.

    Attributes:
        name: str.
        known: list of int, the source's classes that it knows, matched by name.
        outputs: int, 0: it teaches no features.
        is_live: bool, True: it answers within the training step.

    Raises:
        DMFormerError: it cannot be loaded, is of another kind or for other channels, or knows
            fewer than two of the source's classes.
    """

    outputs = 0
    is_live = True

    def __init__(
        self,
        model: PathLike | keras.Model,
        source: ImageSource,
        temperature: float,
        segments: bool = False,
        image_size: int | str | None = None,
        class_names: Sequence[str] | PathLike | None = None,
    ) -> None:
        self.name, self.model, own_size = _opened(model)
        self._temperature = temperature
        self._scale, self._offset = _conversion(self.model)
        self._size = _size_seen(self.model, image_size, own_size)
        self._check_fits(source, segments)
        self.class_names = _class_names(self.model, class_names, self.name)
        width = self._try(source.channels)
        if len(self.class_names) != width:
            raise DMFormerError(
                f"The teacher {self.name!r} has {width} outputs, and {len(self.class_names)} class "
                "names were given; give one name per output."
            )
        self.known, self._columns = matched_classes(self.class_names, source)

    def __call__(self, images: Tensor) -> Tensor:
        """The teacher's probabilities of the known classes for a batch in 0..255, no gradient.

        They are at the temperature: float32 (batch, known), for a segmenter (batch, height, width,
        known).
        """
        logits = ops.take(self.logits(images), np.array(self._columns), axis=-1)
        return ops.stop_gradient(ops.softmax(logits / self._temperature, axis=-1))

    def logits(self, images: Tensor) -> Tensor:
        """The logits of all its classes, float32, of a segmenter at the size of the images."""
        size = tuple(images.shape[1:3])
        if self._repeats_gray:
            images = ops.repeat(images, 3, axis=-1)
        seen = images if self._size in (None, size) else _resized(images, self._size)
        if self._scale is not None:
            seen = seen * self._scale + self._offset
        outputs = ops.cast(self.model(seen, training=False), "float32")
        if self._gives_probabilities:
            outputs = ops.log(ops.maximum(outputs, _SMALLEST_PROBABILITY))
        same = len(outputs.shape) == 2 or tuple(outputs.shape[1:3]) == size
        return outputs if same else _resized(outputs, size)

    def identity(self) -> dict[str, Any]:
        """What tells this teacher from others, as JSON values."""
        matched = {number: self.class_names[column] for number, column in self._matched()}
        return {
            "name": self.name,
            "weights": self._checksum,
            "size": self._size and list(self._size),
            "classes": hashlib.sha256(json.dumps(matched).encode()).hexdigest()[:12],
        }

    def described(self) -> str:
        """str, its name and checksum, for a report and a model card."""
        return f"{self.name}, weights {self._checksum}"

    def store_answers(
        self,
        folder: Path,
        source: ImageSource,
        image_size: tuple[int, int],
        progress: bool = False,
    ) -> None:
        """Writes its logits for every training image, whole and unchanged, see `TeacherAnswers`.

        Args:
            folder: Path. What is there of answers that were not finished is replaced.
            source: ImageSource, the training images.
            image_size: (height, width), ints, in pixels, for a teacher without a size of its own.
            progress: bool, show a progress bar on stderr.
        """
        rows = []
        batches = evaluation_batches(source, self._size or image_size, _BATCH_SIZE)
        with (
            stated_data_errors(),
            progress_bar("Computing answers", len(source), shown=progress) as bar,
        ):
            for images, _ in batches:
                answers = self.logits(ops.convert_to_tensor(images))
                rows.append(ops.convert_to_numpy(answers).astype(np.float16))
                bar.update(len(images))
        names = [source.name(index) for index in range(len(source))]
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / LOGITS_FILE) as path:
            np.save(path, np.concatenate(rows))
        _write_lines(folder / NAMES_FILE, names)
        _write_lines(folder / CLASSES_FILE, self.class_names)
        # Written last: if it exists, the other files are complete.
        card = {"name": self.described(), "weights": self._checksum}
        _write_lines(folder / CARD_FILE, [json.dumps(card)])

    def has_stored(self, folder: Path) -> bool:
        """Tells whether a folder holds this teacher's answers.

        Args:
            folder: Path.

        Raises:
            DMFormerError: it holds something else.
        """
        known_files = {LOGITS_FILE, NAMES_FILE, CLASSES_FILE}
        try:
            card = json.loads(read_regular_text(folder / CARD_FILE))
        except FileNotFoundError:
            there = {path.name for path in folder.glob("*")} if folder.is_dir() else set()
            if all(name in known_files or name.startswith(WRITING) for name in there):
                return False
            card = {}
        except (OSError, ValueError):
            card = {}
        if isinstance(card, dict) and card.get("weights") == self._checksum:
            return True
        raise DMFormerError(
            f"The folder {str(folder)!r} holds something else than the answers of {self.name!r}; "
            "give --teacher-cache another folder, or leave out the teacher to learn from the "
            "answers that are there."
        )

    @functools.cached_property
    def _checksum(self):
        digest = hashlib.sha256()
        for variable in self.model.weights:
            digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable)).tobytes())
        return digest.hexdigest()[:12]

    def _matched(self):
        return zip(self.known, self._columns, strict=True)

    def _check_fits(self, source, segments):
        kind = "segmenter" if segments else "classifier"
        shape, wanted = self.model.output.shape, 4 if segments else 2
        if len(shape) != wanted:
            raise DMFormerError(
                f"The teacher {self.name!r} gives outputs of shape {shape}, where those of a "
                f"{kind} were expected; give a trained {kind}."
            )
        channels = self.model.input.shape[-1]
        self._repeats_gray = (source.channels, channels) == (1, 3)
        if channels != source.channels and not self._repeats_gray:
            raise DMFormerError(
                f"The teacher {self.name!r} takes images of {channels} channels, and the student "
                f"gets {source.channels}; give another teacher, or channels={channels}."
            )

    def _try(self, channels):
        """Looks at noise once, to know what the outputs are; returns how many there are."""
        self._gives_probabilities = False
        size = self._size or (_TRIAL_SIZE,) * 2
        noise = np.random.default_rng(0).uniform(0, 255, (2, *size, channels)).astype("float32")
        try:
            outputs = ops.convert_to_numpy(self.logits(ops.convert_to_tensor(noise)))
        except (ValueError, TypeError, RuntimeError) as error:
            raise DMFormerError(
                f"The teacher {self.name!r} cannot run on images of {size[0]}x{size[1]} pixels "
                f"({shortened(error)}); give it a size that it takes (--teacher-image-size)."
            ) from error
        if not np.isfinite(outputs).all():
            raise DMFormerError(
                f"The teacher {self.name!r} gives outputs that are not finite; its weights are "
                "broken, give another."
            )
        sums = outputs.sum(axis=-1)
        self._gives_probabilities = bool((outputs >= 0).all() and np.allclose(sums, 1, atol=1e-2))
        return outputs.shape[-1]


def _opened(model):
    """The name, the model, and the (height, width) that it is meant for, or None, of a teacher."""
    if isinstance(model, keras.Model):
        return model.name, model, _converted_size(model)
    if not isinstance(model, (str, os.PathLike)):
        raise DMFormerError(
            "A teacher must be a trained keras.Model, or a path or preset to load one from, not "
            f"{model!r}."
        )
    from dmformer_keras.export import is_exported

    text = os.fspath(model)
    if is_exported(text):
        raise DMFormerError(
            f"The teacher {text!r} is an exported file, which cannot be part of a training; give "
            "the model that it was made from."
        )
    if text.endswith(KERAS_SUFFIX) and not is_address(text):
        opened = _keras_file(Path(text))
        return Path(text).name, opened, _converted_size(opened)
    opened = load_trained(text, ANY_SIZE)
    size = None if is_segmenter(opened) else image_shape(read_preset(text).config)[:2]
    return Path(text).name, opened, None if size is None or None in size else tuple(size)


def _keras_file(path):
    """Any Keras model that a file holds, not only this package's."""
    check_keras_file(path)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # layers of other libraries may raise anything
        raise DMFormerError(
            f"The teacher {os.fspath(path)!r} cannot be loaded ({shortened(error, 150)}); save it "
            "again with model.save, and install the library whose layers it has."
        ) from error


def _converter(model):
    """The image converter of a KerasHub task, or None."""
    return getattr(getattr(model, "preprocessor", None), "image_converter", None)


def _converted_size(model):
    converter = _converter(model)
    size = None if converter is None else converter.image_size
    return None if size is None else tuple(size)


def _conversion(model):
    """Scale and offset of the image converter that a KerasHub task has, or Nones."""
    converter = _converter(model)
    if converter is None:
        return None, None
    scale, offset = converter.scale, converter.offset
    return np.float32(1 if scale is None else scale), np.float32(0 if offset is None else offset)


def _size_seen(model, image_size, own_size):
    """(height, width) that images are resized to, or None for those of the batch."""
    fixed = tuple(model.input.shape[1:3])
    if None in fixed:
        sizes = {None: own_size, STUDENT_SIZE: None}
        return sizes.get(image_size, (image_size, image_size))
    if image_size is not None and fixed != (image_size, image_size):
        raise DMFormerError(
            f"The teacher takes images of {fixed[0]}x{fixed[1]} pixels only; leave out "
            "teacher_image_size (--teacher-image-size)."
        )
    return fixed


def _class_names(model, given, name):
    """The names of a teacher's classes: those given, or the model's own."""
    if isinstance(given, (str, os.PathLike)):
        try:
            given = read_regular_text(given).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DMFormerError(
                f"The file of the teacher's class names, {os.fspath(given)!r}, cannot be read; "
                "give a UTF-8 text with one name per line."
            ) from error
    names = given or getattr(model, "class_names", None)
    if not names:
        raise DMFormerError(
            f"The teacher {name!r} has no class names, by which its classes are matched; give them "
            "in the order of its outputs (--teacher-classes FILE, one per line)."
        )
    return [str(one) for one in names]


def _resized(images, size):
    return ops.image.resize(
        images, size, interpolation="bilinear", antialias=True, data_format="channels_last"
    )


def _write_lines(path, lines):
    with written_whole(path) as beside:
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
