"""Learning from a teacher's answers: the file that holds them, the model and the loss."""

from __future__ import annotations

import collections
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from dmformer_keras.errors import DAMAGE, DMFormerError, shortened
from dmformer_keras.system.files import FILE_BYTES_LIMIT, read_regular_text
from dmformer_keras.training.losses import PixelAccuracy, SegmentationLoss
from dmformer_keras.type_names import Config, PathLike, Tensor

if TYPE_CHECKING:
    from dmformer_keras.data import ImageSource
    from dmformer_keras.training.live_teacher import Teacher


NAMES_FILE = "names.txt"
CLASSES_FILE = "classes.txt"
LOGITS_FILE = "logits.npy"
FEATURES_FILE = "features.npy"
CARD_FILE = "teacher.json"
# The name in the identity for which answer belongs to which image and class.
MATCHES = "names and classes"

# Features are learned as standard scores, clipped to this absolute value.
_LARGEST_SCORE = 5.0
# The number of rows from which mean and deviation of each feature are estimated.
_SAMPLE = 8192
_NO_SPREAD = 1e-6


class TeacherAnswers:
    """What a teacher said of each training image, once: logits, pooled features, or both.

    The folder is made by any program:

    - `names.txt`: the names of the images, one per line, as `ImageSource.name` gives them;
    - `logits.npy`: float array (images, classes), with `classes.txt`, the name of each class;
    - `features.npy`: float array (images, features);
    - `teacher.json`, optional: `{"name": ...}`, for the model card.

    Source: the stored answers of FKD (Shen and Xing 2022) and of reinforced data sets (Faghri et
    al. 2023); one answer per image, whatever the crop, is this project's decision.

    Args:
        folder: str or path.
        source: ImageSource, the training images.
        temperature: float, positive, that the teacher's logits are divided by.

    Attributes:
        name: str, of the teacher.
        known: list of int, the source's classes that the teacher knows, matched by name.
        outputs: int, the features that the student learns beside its classes.
        width: int, numbers per image.
        is_live: bool, False: the answers come with the labels.

    Raises:
        DMFormerError: a file is missing or damaged, an image has no answer, or the teacher's
            logits know none of the source's classes.
    """

    is_live = False

    def __init__(self, folder: PathLike, source: ImageSource, temperature: float) -> None:
        self.folder = Path(folder)
        self._temperature = temperature
        names = self._lines(NAMES_FILE)
        self._logits = self._array(LOGITS_FILE, len(names))
        self._features = self._array(FEATURES_FILE, len(names))
        if self._logits is None and self._features is None:
            raise DMFormerError(
                f"The teacher's folder {str(folder)!r} has neither {LOGITS_FILE} nor "
                f"{FEATURES_FILE}; write one of them, a row for each line of {NAMES_FILE}."
            )
        self._rows = self._matched_rows(names, source)
        self.known, self._columns = [], []
        if self._logits is not None:
            self.known, self._columns = self._matched_classes(source)
        self.outputs = 0
        if self._features is not None:
            self.outputs = self._features.shape[1]
            self._set_scale()
        self.width = len(self.known) + self.outputs
        self.name = self._card().get("name", self.folder.name)

    def __call__(self, indexes: ArrayLike) -> NDArray[np.float32]:
        """What is learned of the images of these indexes, float32 (number, width).

        These are the teacher's probabilities of the known classes, then the standard scores of the
        features.
        """
        rows = self._rows[np.asarray(indexes)]
        parts = []
        if self.known:
            logits = self._logits[rows].astype(np.float32)[:, self._columns] / self._temperature
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            parts.append(shares / shares.sum(axis=1, keepdims=True))
        if self.outputs:
            scores = (self._features[rows].astype(np.float32) - self._mean) / self._deviation
            parts.append(scores.clip(-_LARGEST_SCORE, _LARGEST_SCORE))
        return np.concatenate(parts, axis=1)

    def identity(self) -> dict[str, Any]:
        """What tells these answers from others, as JSON values."""
        parts: dict[str, Any] = {NAMES_FILE: len(self._rows)}
        for file, array in ((LOGITS_FILE, self._logits), (FEATURES_FILE, self._features)):
            if array is not None:
                sample = np.ascontiguousarray(array[:: max(1, len(array) // _SAMPLE)])
                parts[file] = [list(array.shape), _digest(sample)]
        matched = np.array([*self._rows, *self.known, *self._columns], np.int64)
        return {"name": self.name, "answers": parts, MATCHES: _digest(matched)}

    def described(self) -> str:
        """str, the teacher's name, for a report and a model card."""
        return self.name

    def _lines(self, file):
        try:
            return read_regular_text(self.folder / file, FILE_BYTES_LIMIT).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise DMFormerError(
                f"The teacher's {str(self.folder / file)!r} cannot be read: {reason}; it lists "
                "one name per line."
            ) from error

    def _array(self, file, rows):
        path = self.folder / file
        if not path.is_file():
            return None
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            right = array.ndim == 2 and array.dtype.kind == "f" and len(array) == rows
        except DAMAGE as error:
            raise DMFormerError(
                f"The teacher's {str(path)!r} cannot be read: {shortened(error, 150)}; write it "
                "with numpy.save."
            ) from error
        if not right:
            raise DMFormerError(
                f"The teacher's {str(path)!r} must be a float array with a row for each of the "
                f"{rows} lines of {NAMES_FILE}, and is {array.dtype} {array.shape}."
            )
        return array

    def _matched_rows(self, names, source):
        row_of = {name: row for row, name in enumerate(names)}
        wanted = [source.name(index) for index in range(len(source))]
        missing = [name for name in wanted if name not in row_of]
        if missing:
            raise DMFormerError(
                f"The teacher's {str(self.folder / NAMES_FILE)!r} has no line for {len(missing)} "
                f"of {len(wanted)} training images, such as {missing[0]!r}; compute the "
                "outputs for the training images."
            )
        return np.array([row_of[name] for name in wanted])

    def _matched_classes(self, source):
        classes = self._lines(CLASSES_FILE)
        if len(classes) != self._logits.shape[1]:
            raise DMFormerError(
                f"The teacher's {LOGITS_FILE} has {self._logits.shape[1]} columns, and "
                f"{CLASSES_FILE} {len(classes)} names; write one name per column."
            )
        return matched_classes(classes, source)

    def _set_scale(self):
        sample = self._features[:: max(1, len(self._features) // _SAMPLE)].astype(np.float32)
        self._mean = sample.mean(axis=0)
        self._deviation = np.maximum(sample.std(axis=0), _NO_SPREAD)

    def _card(self):
        path = self.folder / CARD_FILE
        if not path.is_file():
            return {}
        try:
            card = json.loads(read_regular_text(path))
            return {"name": str(card["name"])}
        except DAMAGE as error:
            raise DMFormerError(
                f"The teacher's {str(path)!r} must be JSON with a name; correct it."
            ) from error


def matched_classes(classes: list[str], source: ImageSource) -> tuple[list[int], list[int]]:
    """Which of a teacher's classes are which of a source's, by their names: a list of int, the
    source's classes that the teacher knows; list of int, its outputs.

    A name that two classes have, such as crane, tells neither: it is left to the labels.
    """
    column_of = {name: classes.index(name) for name in _told_once(classes)}
    told = _told_once(source.class_names)
    pairs = [
        (number, column_of[name])
        for number, name in enumerate(source.class_names)
        if name in column_of and name in told
    ]
    if len(pairs) < 2:
        raise DMFormerError(
            f"The teacher knows {len(pairs)} of the classes of {source.title} by name, and two "
            f"or more are needed; call its classes ({', '.join(classes[:3])}, ...) as the images' "
            f"({', '.join(source.class_names[:3])}, ...)."
        )
    return [number for number, _ in pairs], [column for _, column in pairs]


def student_model(model: keras.Model, teacher: TeacherAnswers | Teacher) -> keras.Model:
    """A model for training: a student's logits, and what its loss needs of a teacher beside them.

    Its outputs are (batch, classes + outputs + known): logits, guesses at the features of stored
    answers, the answers of a teacher that looks at the batch. With stored logits only it is the
    model itself.
    """
    parts = [model.output]
    if teacher.outputs:
        pooled, logits = _pooled_and_logits(model)
        guess = keras.layers.Dense(teacher.outputs, dtype="float32", name="teacher_features")
        parts = [logits, guess(pooled)]
    if teacher.is_live:
        parts.append(TeacherProbabilities(teacher, name="teacher")(model.input))
    if len(parts) == 1:
        return model
    together = keras.layers.Concatenate(dtype="float32", name="student_and_teacher")
    student = keras.Model(model.input, together(parts), name="student")
    student.backbone = model.backbone
    return student


@keras.saving.register_keras_serializable(package="dmformer_keras")
class TeacherProbabilities(keras.layers.Layer):
    """A teacher's probabilities for a batch; the teacher's weights are not part of the layer.

    So they are neither trained nor saved with each epoch. A layer that is read from a file has
    `known` and `of_pixels` in place of a teacher: it has a shape and no values.
    """

    def __init__(
        self,
        teacher: Any = None,
        known: int | None = None,
        of_pixels: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        # In an object, because Keras would track a model.
        self.teacher = teacher
        self.known = len(teacher.known) if known is None else known
        self.of_pixels = len(teacher.model.output.shape) == 4 if of_pixels is None else of_pixels

    def call(self, images: Tensor) -> Tensor:
        return self.teacher(images)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*(shape[:3] if self.of_pixels else shape[:1]), self.known)

    def get_config(self) -> Config:
        return {**super().get_config(), "known": self.known, "of_pixels": self.of_pixels}


def _pooled_and_logits(classifier):
    """The first features without height and width in a classifier's head, and its outputs."""
    head, features = classifier.head, classifier.backbone(classifier.input)
    if isinstance(head, keras.Sequential):
        # Layer by layer, under whose names a checkpoint keeps them.
        steps = [features]
        for layer in head.layers:
            steps.append(layer(steps[-1]))
    else:
        inner = [layer.output for layer in head.layers[:-1]]
        steps = keras.Model(head.inputs, [*inner, head.outputs[0]])(features)
    pooled = next((step for step in steps[1:-1] if len(step.shape) == 2), None)
    if pooled is None:
        raise DMFormerError(
            f"The head of {classifier.name!r} has no pooled features, (images, features), before "
            "its last layer, which a teacher's features could be learned from; leave them out."
        )
    return pooled, steps[-1]


@keras.saving.register_keras_serializable(package="dmformer_keras")
class TaughtLoss(keras.losses.Loss):
    """The loss by labels, and the distance to a teacher's outputs.

    For an image whose class the teacher knows, the share `teacher_weight` of the loss is the
    divergence `temperature**2 * KL(teacher || student)` over the `known` classes (Hinton et al.
    2015), and the rest the loss by labels. An image whose class it does not know has the loss by
    labels alone; for a mixed image the shares decide. The mean squared error of the features'
    standard scores, times `feature_weight`, is added.

    Targets: float (batch, classes + known + features): shares of the classes, the teacher's
    probabilities at that temperature, standard scores. Predictions: (batch, classes + features).
    With `live`, targets are classes or their shares, and predictions (batch, classes + known).
    """

    def __init__(
        self,
        loss,
        classes,
        known,
        teacher_weight,
        temperature,
        feature_weight,
        live=False,
        name="taught_loss",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.loss = loss
        self.classes = classes
        self.known = [int(number) for number in known]
        self.teacher_weight = teacher_weight
        self.temperature = temperature
        self.feature_weight = feature_weight
        self.live = live

    def call(self, y_true, y_pred):
        y_true, y_pred = _shares(y_true, self.classes), ops.cast(y_pred, "float32")
        shares, logits = y_true[:, : self.classes], y_pred[:, : self.classes]
        loss = self.loss.call(shares, logits)
        first_score = self.classes + len(self.known)
        if self.known:
            taught = (y_pred if self.live else y_true)[:, self.classes : first_score]
            weight = self.teacher_weight * ops.sum(ops.take(shares, self.known, axis=1), axis=1)
            divergence = _divergence(taught, logits, self.known, self.temperature)
            loss = (1 - weight) * loss + weight * divergence
        if self.live:
            return loss
        scores, guesses = y_true[:, first_score:], y_pred[:, self.classes :]
        if scores.shape[-1]:
            loss += self.feature_weight * ops.mean(ops.square(scores - guesses), axis=-1)
        return loss

    def get_config(self):
        return {
            **super().get_config(),
            "loss": keras.saving.serialize_keras_object(self.loss),
            "classes": self.classes,
            "known": self.known,
            "teacher_weight": self.teacher_weight,
            "temperature": self.temperature,
            "feature_weight": self.feature_weight,
            "live": self.live,
        }

    @classmethod
    def from_config(cls, config):
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


@keras.saving.register_keras_serializable(package="dmformer_keras")
class TaughtSegmentationLoss(SegmentationLoss):
    """The loss by masks, and the distance to a teacher's outputs for each pixel.

    For a pixel whose class the teacher knows, the share `teacher_weight` of the cross-entropy is
    replaced by the divergence, as in `TaughtLoss`. Other pixels are learned from the mask alone,
    and ignored pixels not at all. Class weights apply to both; Dice and Lovász losses are of the
    mask.

    Targets: ints (batch, height, width). Predictions: (batch, height, width, classes + known),
    logits and the teacher's probabilities at that temperature.
    """

    def __init__(
        self,
        classes: int,
        known: list[int],
        teacher_weight: float,
        temperature: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.known = [int(number) for number in known]
        self.teacher_weight = teacher_weight
        self.temperature = temperature

    def call(self, y_true, y_pred, sample_weight=None):
        taught = ops.cast(
            ops.reshape(y_pred[..., self.classes :], (-1, len(self.known))), "float32"
        )
        is_known = np.isin(np.arange(self.classes), self.known).astype("float32")

        def pixel_losses(labels, logits):
            by_mask = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            divergence = _divergence(taught, logits, self.known, self.temperature)
            weight = self.teacher_weight * ops.take(ops.array(is_known), labels)
            return (1 - weight) * by_mask + weight * divergence

        return self._total(y_true, y_pred[..., : self.classes], pixel_losses, sample_weight)

    def get_config(self):
        return {
            **super().get_config(),
            "classes": self.classes,
            "known": self.known,
            "teacher_weight": self.teacher_weight,
            "temperature": self.temperature,
        }


@keras.saving.register_keras_serializable(package="dmformer_keras")
class TaughtPixelAccuracy(PixelAccuracy):
    """`PixelAccuracy` of the logits, for predictions that also hold the teacher's probabilities."""

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred[..., : self.classes], sample_weight)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable(package="dmformer_keras")
class TaughtAccuracy(keras.metrics.CategoricalAccuracy):
    """The accuracy of the logits, for targets and predictions that hold more than classes."""

    def __init__(self, classes, name="accuracy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.classes = classes

    def update_state(self, y_true, y_pred, sample_weight=None):
        shares = _shares(y_true, self.classes)[:, : self.classes]
        return super().update_state(shares, y_pred[:, : self.classes], sample_weight)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


def _shares(y_true, classes):
    """Targets as floats: class numbers become shares of 1."""
    if len(y_true.shape) == 1:
        return ops.one_hot(ops.cast(y_true, "int32"), classes, dtype="float32")
    return ops.cast(y_true, "float32")


def _divergence(taught, logits, known, temperature):
    """`temperature**2 * KL(teacher || student)` over the known classes."""
    own = ops.log_softmax(ops.take(logits, np.array(known), axis=-1) / temperature, axis=-1)
    logarithm = ops.log(ops.maximum(taught, keras.config.epsilon()))
    return temperature**2 * ops.sum(taught * (logarithm - own), axis=-1)


def _told_once(names):
    return {name for name, count in collections.Counter(names).items() if count == 1}


def _digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()[:12]
