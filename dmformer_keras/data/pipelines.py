"""From a source to batches: the same ones by tf.data and by a Keras PyDataset.

The plan says which example stands where; what is here prepares them in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmformer_keras.data.augment import Augmentation
from dmformer_keras.data.image_source import ImageSource
from dmformer_keras.data.joint_augment import JointAugmentation
from dmformer_keras.data.mixing import Mixing
from dmformer_keras.data.plan import DevicePlan, Plan, positive_number, whole_number
from dmformer_keras.data.segmentation_source import SegmentationSource
from dmformer_keras.data.tfds_source import StreamSource
from dmformer_keras.errors import DMFormerError
from dmformer_keras.type_names import ImageSize

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# A stream is shuffled within a window of this many encoded images.
_STREAM_SHUFFLE = 10_000


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
        num_parallel_calls: int, images prepared at a time; None means one per CPU.

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
    plan = Plan(
        source=source, image_size=image_size, batch_size=batch_size, training=training,
        augmentation=augmentation, seed=seed, first_epoch=first_epoch, first_step=first_step,
        epochs=epochs, resize=resize, crop_fraction=crop_fraction, mixing=mixing,
        answers=answers, shard=shard,
    )  # fmt: skip
    parallel = positive_number("num_parallel_calls", num_parallel_calls or os.cpu_count() or 1)
    try:
        import tensorflow as tf
    except ImportError as error:
        raise DMFormerError(
            "to_tf_dataset needs TensorFlow, which is not installed; use to_py_dataset, or run "
            "`pip install tensorflow`."
        ) from error
    prepare: Callable[..., Any]
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
        workers: int, threads that prepare images; None means one per CPU. They are this
            dataset's own: with Keras's workers, and with a count of epochs kept by
            `on_epoch_end`, the batch that `fit` reads to build a model displaces others.
        prefetch: int, batches prepared ahead.
        on_device: bool, see above; for training a classifier.

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
    plan = (DevicePlan if on_device else Plan)(
        source=source, image_size=image_size, batch_size=batch_size, training=training,
        augmentation=augmentation, seed=seed, first_epoch=first_epoch, first_step=first_step,
        epochs=epochs, resize=resize, crop_fraction=crop_fraction, mixing=mixing,
        answers=answers, shard=shard,
    )  # fmt: skip
    if isinstance(source, StreamSource):
        raise DMFormerError(
            f"{source.title} is streamed, which only tf.data can do; use to_tf_dataset."
        )
    workers = positive_number("workers", workers or os.cpu_count() or 1)
    from dmformer_keras.data.py_dataset import BatchDataset

    return BatchDataset(plan, workers, whole_number("prefetch", prefetch))


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
