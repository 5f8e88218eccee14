"""From a source to batches: the same ones by tf.data and by a Keras PyDataset.

Everything rests on one pure function. The order of an epoch depends on (seed, epoch),
the random changes to an image on (seed, epoch, index), and on nothing else. So batches
are the same bit for bit whatever prepares them, on however many threads, and whether
training went through or was resumed.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmformer_keras.data import device_augment
from dmformer_keras.data.augment import Augmentation
from dmformer_keras.data.image_source import ImageSource
from dmformer_keras.data.images import (
    check_geometry,
    checked_size,
    decode_image,
    resize_image,
    resize_mask,
)
from dmformer_keras.data.joint_augment import JointAugmentation
from dmformer_keras.data.masks import IGNORED_LABEL
from dmformer_keras.data.mixing import Mixing, one_hot, with_reversed
from dmformer_keras.data.segmentation_source import SegmentationSource
from dmformer_keras.data.tfds_source import StreamSource
from dmformer_keras.errors import DMFormerError
from dmformer_keras.type_names import ImageSize, Pixels

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


# Sets the two kinds of random numbers apart, so that none repeats another.
_ORDER, _EXAMPLE, _BATCH = 0, 1, 2
# A stream is shuffled within a window of this many encoded images.
_STREAM_SHUFFLE = 10_000


def load_example(
    source: ImageSource,
    index: int,
    image_size: tuple[int, int],
    augmentation: Augmentation | JointAugmentation | None,
    seed: int,
    epoch: int,
    *,
    resize: str = "crop",
    crop_fraction: float = 1.0,
) -> tuple[Pixels, Any]:
    """One image at the size the network takes, changed at random, and its class or mask.

    Args:
        source: ImageSource or SegmentationSource.
        index: int, which image.
        image_size: (height, width), ints, in pixels.
        augmentation: Augmentation, or JointAugmentation for a SegmentationSource, or None for
            the geometry of evaluation.
        seed: int, not negative.
        epoch: int, not negative.
        resize: str, see `resize_image`.
        crop_fraction: float, see `resize_image`.

    Returns:
        uint8 array (*image_size, channels), and int, or uint8 array (*image_size) of class
        indexes and 255 for ignored pixels. The same for the same arguments, always.

    Raises:
        DMFormerError: the image cannot be read.

    Example:

    >>> from dmformer_keras.data import open_source
    >>> image, label = load_example(open_source("digits"), 0, (64, 64), None, seed=0, epoch=0)
    >>> image.shape, label
    ((64, 64, 3), 0)
    """
    example = source.read(index)
    return _prepared(image_size, augmentation, resize, crop_fraction, seed, example, epoch, index)


def steps_per_epoch(source: ImageSource, batch_size: int, *, training: bool = True) -> int:
    """The number of batches in an epoch.

    Args:
        source: ImageSource or SegmentationSource.
        batch_size: int, positive.
        training: bool. In training the images over after the last full batch wait for
            another epoch, and a source smaller than a batch makes one batch of all.

    Returns:
        int.

    Raises:
        DMFormerError: the batch size is not positive.

    Example:

    >>> from dmformer_keras.data import open_source
    >>> source = open_source("digits", split="val")
    >>> steps_per_epoch(source, 32), steps_per_epoch(source, 32, training=False)
    (5, 6)
    """
    batch_size = _positive("batch_size", batch_size)
    return max(1, len(source) // batch_size) if training else -(-len(source) // batch_size)


def to_tf_dataset(
    source: ImageSource,
    image_size: ImageSize,
    batch_size: int,
    *,
    training: bool = False,
    augmentation: Augmentation | JointAugmentation | None = None,
    seed: int = 0,
    first_epoch: int = 0,
    first_step: int = 0,
    epochs: int | None = None,
    resize: str = "crop",
    crop_fraction: float = 1.0,
    mixing: Mixing | None = None,
    answers: Callable[[Any], NDArray[np.float32]] | None = None,
    shard: tuple[int, int] = (0, 1),
    num_parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """Batches as a `tf.data.Dataset`; `Model.fit` takes it on every backend.

    For evaluation it gives every image once, in order. For training it is one stream of
    epochs, each in its own order with its own changes, so `fit` has to be told where an
    epoch ends:

    ```python
    train = to_tf_dataset(source, 224, 64, training=True, first_epoch=done, augmentation=...)
    model.fit(train, steps_per_epoch=steps_per_epoch(source, 64), initial_epoch=done, epochs=90,
              shuffle=False)
    ```

    A streamed source (see `open_source`) is shuffled within a window of 10,000 images only.

    Args:
        source: ImageSource or SegmentationSource.
        image_size: int, or (height, width), in pixels.
        batch_size: int. The last batch of an evaluation may be smaller. In training every
            batch is full, unless the source is smaller than one batch.
        training: bool.
        augmentation: Augmentation, or JointAugmentation for a SegmentationSource, for
            training; None changes nothing.
        seed: int, not negative.
        first_epoch: int, the epoch to begin with, for training that is resumed.
        first_step: int, the batch, counted from that epoch's first, to begin with; 0 for a
            streamed source.
        epochs: int, the number of epochs to give, or None for no end; for training.
        resize: str, geometry of evaluation: see `resize_image`.
        crop_fraction: float, likewise.
        mixing: Mixing, for training a classifier, or None. Labels are then float32 (batch,
            classes), the share of each class.
        answers: function from indexes of the source to a float32 array (number, `answers.width`),
            what a teacher said of these images, for training a classifier; or None. Labels are
            then float32 (batch, classes + width): shares of the classes, then answers, mixed as
            the images are.
        shard: (which, of how many), ints: of every batch only this part, in training by several
            processes. Images are then mixed within each part.
        num_parallel_calls: int, images prepared at a time; None means one a CPU.

    Returns:
        `tf.data.Dataset` of (float32 (batch, height, width, channels) in 0..255, int32
        (batch,), or masks (batch, height, width) with 255 for ignored pixels), with static
        shapes but for an evaluation's last batch, and known cardinality.

    Raises:
        DMFormerError: TensorFlow is missing, or an argument is wrong.

    Example:

    >>> from dmformer_keras.data import open_source
    >>> dataset = to_tf_dataset(open_source("digits", split="val"), 32, 64)
    >>> [len(labels) for images, labels in dataset]
    [64, 64, 51]
    """
    plan = _Plan(
        source=source, image_size=image_size, batch_size=batch_size, training=training,
        augmentation=augmentation, seed=seed, first_epoch=first_epoch, first_step=first_step,
        epochs=epochs, resize=resize, crop_fraction=crop_fraction, mixing=mixing,
        answers=answers, shard=shard,
    )  # fmt: skip
    parallel = _positive("num_parallel_calls", num_parallel_calls or os.cpu_count() or 1)
    try:
        import tensorflow as tf
    except ImportError as error:
        raise DMFormerError(
            "to_tf_dataset needs TensorFlow, which is not installed; use to_py_dataset, or run "
            "`pip install tensorflow`."
        ) from error
    if isinstance(source, StreamSource):
        examples, prepare = _streamed_examples(tf, plan), plan.streamed_example
    else:
        examples, prepare = _numbered_examples(tf, plan), plan.example
    shape = (*plan.image_size, source.channels)
    segments = isinstance(source, SegmentationSource)
    label_shape, label_type = (plan.image_size, tf.uint8) if segments else ((), tf.int32)

    def load(*example):
        image, label = tf.numpy_function(prepare, example, (tf.uint8, label_type), stateful=False)
        return tf.ensure_shape(image, shape), tf.ensure_shape(label, label_shape)

    def widen(images, labels):
        return tf.cast(images, tf.float32), tf.cast(labels, tf.int32)

    def complete(step, batch):
        images, labels = tf.numpy_function(
            plan.completed, (step, *batch), (tf.float32, tf.float32), stateful=False
        )
        return (
            tf.ensure_shape(images, (plan.shard_size, *shape)),
            tf.ensure_shape(labels, (plan.shard_size, plan.label_width)),
        )

    batches = examples.map(load, num_parallel_calls=parallel, deterministic=True)
    batches = batches.batch(plan.shard_size, drop_remainder=plan.all_batches_full)
    # Cast after batching: until then an image or mask is a quarter of the size.
    if plan.mixing is None and plan.answers is None:
        batches = batches.map(widen)
    else:
        batches = batches.enumerate().map(complete, num_parallel_calls=parallel, deterministic=True)
    batches = batches.prefetch(tf.data.AUTOTUNE)
    count = tf.data.INFINITE_CARDINALITY if plan.num_batches is None else plan.num_batches
    return batches.apply(tf.data.experimental.assert_cardinality(count))


def to_py_dataset(
    source: ImageSource,
    image_size: ImageSize,
    batch_size: int,
    *,
    training: bool = False,
    augmentation: Augmentation | JointAugmentation | None = None,
    seed: int = 0,
    first_epoch: int = 0,
    first_step: int = 0,
    epochs: int | None = None,
    resize: str = "crop",
    crop_fraction: float = 1.0,
    mixing: Mixing | None = None,
    answers: Callable[[Any], NDArray[np.float32]] | None = None,
    shard: tuple[int, int] = (0, 1),
    workers: int | None = None,
    prefetch: int = 2,
    on_device: bool = False,
) -> keras.utils.PyDataset:
    """The batches of `to_tf_dataset`, bit for bit, without TensorFlow.

    `Model.fit` takes it like the other, with `steps_per_epoch` and `initial_epoch`.

    With `on_device` the threads only read images, and the backend changes and mixes whole
    batches, on its GPU where it has one: what is drawn is the same, and pixels differ by a level
    or two of 255. That is for JAX and PyTorch: under TensorFlow, Keras takes every batch back to
    the CPU.

    Args:
        source, image_size, batch_size, training, augmentation, seed, first_epoch, first_step,
            epochs, resize, crop_fraction, mixing, answers, shard: see `to_tf_dataset`; a streamed
            source is not taken.
        workers: int, threads that prepare images; None means one a CPU. They are this
            dataset's own: with Keras's workers, and with a count of epochs kept by
            `on_epoch_end`, the batch that `fit` reads to build a model displaces others.
        prefetch: int, batches prepared ahead.
        on_device: bool, see above; for training a classifier, without RandAugment and erasing.

    Returns:
        `keras.utils.PyDataset` of (float32 (batch, height, width, channels) in 0..255, int32
        (batch,), or masks (batch, height, width) with 255 for ignored pixels).

    Raises:
        DMFormerError: an argument is wrong.

    Example:

    >>> from dmformer_keras.data import open_source
    >>> dataset = to_py_dataset(open_source("digits", split="val"), 32, 64)
    >>> dataset.num_batches, dataset[2][0].shape
    (3, (51, 32, 32, 3))
    """
    plan = (_DevicePlan if on_device else _Plan)(
        source=source, image_size=image_size, batch_size=batch_size, training=training,
        augmentation=augmentation, seed=seed, first_epoch=first_epoch, first_step=first_step,
        epochs=epochs, resize=resize, crop_fraction=crop_fraction, mixing=mixing,
        answers=answers, shard=shard,
    )  # fmt: skip
    if isinstance(source, StreamSource):
        raise DMFormerError(
            f"{source.title} is streamed, which only tf.data can do; use to_tf_dataset."
        )
    workers = _positive("workers", workers or os.cpu_count() or 1)
    from dmformer_keras.data.py_dataset import BatchDataset

    return BatchDataset(plan, workers, _whole("prefetch", prefetch))


class _Plan:
    """Which example stands where in the stream of batches, and how it is prepared."""

    def __init__(
        self, *, source, image_size, batch_size, training, augmentation, seed, first_epoch,
        first_step, epochs, resize, crop_fraction, mixing, answers, shard,
    ):  # fmt: skip
        if not isinstance(source, ImageSource):
            raise DMFormerError(
                f"Batches are made from what open_source returns, got {type(source).__name__}; "
                "call open_source first."
            )
        kind = JointAugmentation if isinstance(source, SegmentationSource) else Augmentation
        if not isinstance(augmentation, (kind, type(None))):
            raise DMFormerError(
                f"augmentation of a {type(source).__name__} must be of type {kind.__name__} or "
                f"None, got {augmentation!r}; {kind.__name__}.named gives one by its name."
            )
        begins_later = first_epoch or first_step
        if not training and (augmentation is not None or begins_later or epochs is not None):
            raise DMFormerError(
                "augmentation, first_epoch, first_step and epochs are for training; leave them "
                "out, or pass training=True."
            )
        check_geometry(resize, crop_fraction)
        if not isinstance(mixing, (Mixing, type(None))):
            raise DMFormerError(f"mixing must be of type Mixing or None, got {mixing!r}.")
        if mixing is not None and (not training or isinstance(source, SegmentationSource)):
            raise DMFormerError("mixing is for training a classifier; leave it out.")
        if answers is not None and (not training or source.labels is None):
            raise DMFormerError(
                "answers are for training a classifier on images that are not streamed; leave them "
                "out."
            )
        self.mixing = mixing if mixing is not None and mixing.is_on else None
        self.answers = answers
        self.source = source
        self.image_size = checked_size(image_size)
        self.training = bool(training)
        self.seed = _whole("seed", seed)
        self.first_epoch = _whole("first_epoch", first_epoch)
        self.first_step = _whole("first_step", first_step)
        if self.first_step and isinstance(source, StreamSource):
            raise DMFormerError(
                f"{source.title} is streamed, and can be begun with a whole epoch only; leave out "
                "first_step."
            )
        self.steps = steps_per_epoch(source, batch_size, training=training)
        self.batch_size = min(operator.index(batch_size), len(source))
        self.all_batches_full = self.training or len(source) % self.batch_size == 0
        self._set_shard(shard)
        self.epochs = epochs if epochs is None else _positive("epochs", epochs)
        self.augmentation = augmentation
        self._prepared = functools.partial(
            _prepared, self.image_size, augmentation, resize, crop_fraction, self.seed
        )
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    @property
    def label_width(self):
        """The numbers per image where labels are shares of the classes."""
        width = len(self.source.class_names)
        return width if self.answers is None else width + self.answers.width

    @property
    def num_batches(self):
        """The number of batches of the whole stream, None for no end."""
        if not self.training:
            return self.steps
        return None if self.epochs is None else self.epochs * self.steps

    @property
    def epoch_examples(self):
        """The number of examples that an epoch shows."""
        return self.steps * self.batch_size if self.training else len(self.source)

    def _set_shard(self, shard):
        self.shard, self.shards = shard
        if not self.training and self.shards != 1:
            raise DMFormerError("shard is for training; leave it out.")
        if self.batch_size % self.shards:
            raise DMFormerError(
                f"Batches of {self.batch_size} images cannot be shared evenly by {self.shards} "
                "processes or devices; choose a batch size that can."
            )
        self.shard_size = self.batch_size // self.shards

    def numbers(self, step):
        """The numbers, in this shard's stream, of the examples that make up a batch."""
        first = step * self.shard_size
        last = first + self.shard_size
        return range(first, last if self.training else min(last, self.epoch_examples))

    def is_of_shard(self, place):
        """Tells whether an example at a place in an epoch is of this shard."""
        return place % self.batch_size // self.shard_size == self.shard

    def example(self, number):
        """The image and the label, or mask, that has a number in this shard's stream."""
        epoch, index = self._place(number)
        image, label = self._prepared(self.source.read(index), epoch, index)
        return image, label if isinstance(label, np.ndarray) else np.int32(label)

    def batch(self, step, examples):
        """The batch of a number, of what `example` gave for its `numbers`."""
        images, labels = zip(*examples, strict=True)
        if self.mixing is not None or self.answers is not None:
            return self.completed(step, np.stack(images), labels)
        return np.stack(images).astype(np.float32), np.array(labels, np.int32)

    def completed(self, step, images, labels):
        """A batch of uint8 images and labels, mixed, and with a teacher's answers."""
        images, own = np.asarray(images, np.float32), np.float32(1)
        if self.mixing is not None:
            kept, own = self.mixing.draw(self.image_size, self._batch_generator(step))
            images = with_reversed(images, kept)
        return images, self._shares(step, labels, np.float32(own))

    def _shares(self, step, labels, own):
        """float32 (batch, label_width): the share of each class, and the answers."""
        shares = one_hot(labels, len(self.source.class_names))
        if self.answers is not None:
            indexes = [self._place(number)[1] for number in self.numbers(step)]
            shares = np.concatenate([shares, self.answers(indexes)], axis=1)
        return with_reversed(shares, own)

    def _place(self, number):
        """The epoch and the index in the source of a number in this shard's stream."""
        step, place = divmod(int(number), self.shard_size)
        step += self.first_step
        position = step * self.batch_size + self.shard * self.shard_size + place
        epoch, place = divmod(position, self.epoch_examples)
        epoch += self.first_epoch
        return epoch, int(self._order(epoch)[place]) if self.training else place

    def _batch_generator(self, step):
        epoch, place = divmod(int(step) + self.first_step, self.steps)
        shard = [self.shard] if self.shards > 1 else []
        return np.random.default_rng([_BATCH, self.seed, epoch + self.first_epoch, place, *shard])

    def streamed_example(self, encoded, label, epoch, index):
        """The image and the label of a streamed example."""
        image = decode_image(encoded, self.source.channels, self.source.name(index))
        return self._prepared((image, np.int32(label)), int(epoch), int(index))

    def _draw_order(self, epoch):
        return np.random.default_rng([_ORDER, self.seed, epoch]).permutation(len(self.source))


class _DevicePlan(_Plan):
    """A plan whose threads only read and draw: the backend does the rest, batch by batch."""

    def __init__(self, *, resize, crop_fraction, **arguments):
        super().__init__(resize=resize, crop_fraction=crop_fraction, **arguments)
        if not self.training or isinstance(self.source, SegmentationSource):
            raise DMFormerError("on_device is for training a classifier; leave it out.")
        if (resize, crop_fraction) != ("crop", 1.0):
            raise DMFormerError(
                "on_device does not resize otherwise than resize='crop' with crop_fraction=1; "
                "leave them, or on_device, out."
            )
        self.augmentation = self.augmentation or Augmentation()
        device_augment.check_can_be_on_device(self.augmentation)

    def example(self, number):
        """An image as it is, its label, and what is to be done to it."""
        epoch, index = self._place(number)
        image, label = self.source.read(index)
        rng = np.random.default_rng([_EXAMPLE, self.seed, epoch, index])
        return image, label, self.augmentation.draw(image.shape, self.image_size, rng)

    def batch(self, step, examples):
        """The batch, its images a tensor of the backend."""
        images, labels, changes = zip(*examples, strict=True)
        images = device_augment.changed(images, changes, self.image_size)
        if self.mixing is None and self.answers is None:
            return images, np.array(labels, np.int32)
        own = np.float32(1)
        if self.mixing is not None:
            kept, own = self.mixing.draw(self.image_size, self._batch_generator(step))
            images = device_augment.mixed(images, kept)
        return images, self._shares(step, labels, np.float32(own))


def _numbered_examples(tf, plan):
    if plan.num_batches is None:
        return tf.data.Dataset.counter()
    return tf.data.Dataset.range((plan.epochs or 1) * plan.epoch_examples // plan.shards)


def _streamed_examples(tf, plan):
    encoded = plan.source.encoded_dataset().enumerate()

    def one_epoch(epoch):
        examples = encoded
        if plan.training:
            # The seed of this function's own graph, never 0: the order then depends on
            # (seed, epoch) alone, where tf.random.set_seed would otherwise have a say.
            tf.compat.v1.set_random_seed(plan.seed % (2**31 - 2) + 1)
            examples = examples.shuffle(_STREAM_SHUFFLE, seed=epoch).take(plan.epoch_examples)
            if plan.shards > 1:
                examples = examples.enumerate().filter(lambda place, _: plan.is_of_shard(place))
                examples = examples.map(lambda _, example: example)
        return examples.map(lambda index, example: (*example, epoch, index))

    if plan.num_batches is None:
        epochs = tf.data.Dataset.counter(plan.first_epoch)
    else:
        epochs = tf.data.Dataset.range(plan.first_epoch, plan.first_epoch + (plan.epochs or 1))
    return epochs.flat_map(one_epoch)


def _prepared(image_size, augmentation, resize, crop_fraction, seed, example, epoch, index):
    """An image with its class or mask, as `ImageSource.read` gives them, made ready."""
    image, label = example
    geometry = {"resize": resize, "crop_fraction": crop_fraction}
    has_mask = isinstance(label, np.ndarray)
    if augmentation is None:
        if has_mask:
            label = resize_mask(label, image_size, **geometry, padding=IGNORED_LABEL)
        return resize_image(image, image_size, **geometry), label
    rng = np.random.default_rng([_EXAMPLE, seed, epoch, index])
    if has_mask:
        return augmentation.apply(image, label, image_size, rng, **geometry)
    return augmentation.apply(image, image_size, rng, **geometry), label


def _whole(name, value, least=0):
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise DMFormerError(f"{name} must be a whole number, {least} or more, got {value!r}.")
    return number


def _positive(name, value):
    return _whole(name, value, least=1)
