"""The order of the examples in the batches, and how each is prepared.

Everything depends on one pure function. The order of an epoch depends on (seed, epoch),
the random changes to an image on (seed, epoch, index), and on nothing else. So batches
are the same bit for bit whatever prepares them, on however many threads, and whether
training went through or was resumed.
"""

import functools
import operator
from typing import Any

import numpy as np

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
from dmformer_keras.type_names import Pixels

# Separates the two kinds of random numbers, so that they do not repeat each other.
_ORDER, _EXAMPLE, _BATCH = 0, 1, 2


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
    batch_size = positive_number("batch_size", batch_size)
    return max(1, len(source) // batch_size) if training else -(-len(source) // batch_size)


class Plan:
    """Which example stands where in the stream of batches, and how it is prepared."""

    def __init__(
        self, *, source, image_size, batch_size, training, augmentation, seed, first_epoch,
        first_step, epochs, resize, crop_fraction, mixing, answers, shard,
    ):  # fmt: skip
        if not isinstance(source, ImageSource):
            raise DMFormerError(
                f"Batches are made of what open_source returns, not of a {type(source).__name__}; "
                "call open_source first."
            )
        kind = JointAugmentation if isinstance(source, SegmentationSource) else Augmentation
        if not isinstance(augmentation, (kind, type(None))):
            raise DMFormerError(
                f"augmentation of a {type(source).__name__} must be of type {kind.__name__} or "
                f"None, not {augmentation!r}; {kind.__name__}.named gives one by its name."
            )
        begins_later = first_epoch or first_step
        if not training and (augmentation is not None or begins_later or epochs is not None):
            raise DMFormerError(
                "augmentation, first_epoch, first_step and epochs are for training; leave them "
                "out, or pass training=True."
            )
        check_geometry(resize, crop_fraction)
        if not isinstance(mixing, (Mixing, type(None))):
            raise DMFormerError(f"mixing must be of type Mixing or None, not {mixing!r}.")
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
        self.seed = whole_number("seed", seed)
        self.first_epoch = whole_number("first_epoch", first_epoch)
        self.first_step = whole_number("first_step", first_step)
        if self.first_step and isinstance(source, StreamSource):
            raise DMFormerError(
                f"{source.title} is streamed, and can only start with a whole epoch; leave out "
                "first_step."
            )
        self.steps = steps_per_epoch(source, batch_size, training=training)
        self.batch_size = min(operator.index(batch_size), len(source))
        self.all_batches_full = self.training or len(source) % self.batch_size == 0
        self._set_shard(shard)
        self.epochs = epochs if epochs is None else positive_number("epochs", epochs)
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
        name = self.source.name(index)
        image = decode_image(encoded, self.source.channels, name, reduce=True)
        return self._prepared((image, np.int32(label)), int(epoch), int(index))

    def _draw_order(self, epoch):
        return np.random.default_rng([_ORDER, self.seed, epoch]).permutation(len(self.source))


class DevicePlan(Plan):
    """A plan whose threads only read and draw: the backend does the rest, batch by batch."""

    def __init__(self, *, resize, crop_fraction, **arguments):
        super().__init__(resize=resize, crop_fraction=crop_fraction, **arguments)
        if not self.training or isinstance(self.source, SegmentationSource):
            raise DMFormerError("on_device is for training a classifier; leave it out.")
        if (resize, crop_fraction) != ("crop", 1.0):
            raise DMFormerError(
                "on_device resizes only by resize='crop' with crop_fraction=1; "
                "use these, or leave out on_device."
            )
        self.augmentation = self.augmentation or Augmentation()
        if self.augmentation.degradation is not None:
            raise DMFormerError(
                "on_device does not compress images; leave out the augmentation's degradation, "
                "or on_device."
            )
        # RandAugment's, of all images.
        self.magnitude = (self.augmentation.rand_augment or (0, 0))[1]

    def example(self, number):
        """An image, its label, and the changes that were drawn for it."""
        epoch, index = self._place(number)
        image, label = self.source.read(index)
        rng = np.random.default_rng([_EXAMPLE, self.seed, epoch, index])
        return image, label, self.augmentation.draw(image.shape, self.image_size, rng)

    def batch(self, step, examples):
        """The batch, its images a tensor of the backend."""
        from dmformer_keras.data import device_augment  # needs Keras, unlike the rest of data

        images, labels, changes = zip(*examples, strict=True)
        images = device_augment.changed(images, changes, self.image_size, self.magnitude)
        if self.mixing is None and self.answers is None:
            return images, np.array(labels, np.int32)
        own = np.float32(1)
        if self.mixing is not None:
            kept, own = self.mixing.draw(self.image_size, self._batch_generator(step))
            images = device_augment.mixed(images, kept)
        return images, self._shares(step, labels, np.float32(own))


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


def whole_number(name, value, least=0):
    """Returns `value` as an int, or raises if it is no whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise DMFormerError(f"{name} must be a whole number, {least} or more, not {value!r}.")
    return number


def positive_number(name, value):
    """Returns `value` as an int, or raises if it is no whole number of at least 1."""
    return whole_number(name, value, least=1)
