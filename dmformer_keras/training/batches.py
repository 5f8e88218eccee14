"""Which pipeline feeds a model: tf.data where TensorFlow is installed, else a PyDataset."""

import contextlib
import functools
import importlib.util
import re

import keras

from dmformer_keras.data import steps_per_epoch, to_py_dataset, to_tf_dataset
from dmformer_keras.data.tfds_source import StreamSource
from dmformer_keras.errors import DMFormerError


def training_batches(source, recipe, image_size, first_step, shard=(0, 1), answers=None):
    """The endless stream of a recipe's training batches, from one of them on: what `Model.fit`
    takes, with `steps_per_epoch`.
    """
    begin = {"first_step": first_step}
    if isinstance(source, StreamSource):
        begin = {"first_epoch": first_step // steps_per_epoch(source, recipe.batch_size)}
    make = _pipeline()
    if recipe.augment_on_device:
        make = functools.partial(to_py_dataset, on_device=True)
    return make(
        source,
        image_size,
        recipe.batch_size,
        training=True,
        augmentation=recipe.changes,
        mixing=recipe.mixing,
        seed=recipe.seed,
        shard=shard,
        **begin,
        **({} if answers is None else {"answers": answers}),
    )


def statistics_batches(source, recipe, image_size, epoch, images=512):
    """Yields batches of training images, changed as in training but not mixed: a float32 array
    (batch, height, width, channels) in 0..255.
    """
    # A stream has no images by number; only tf.data reads it.
    streamed = isinstance(source, StreamSource)
    batches = (to_tf_dataset if streamed else to_py_dataset)(
        source,
        image_size,
        recipe.batch_size,
        training=True,
        augmentation=recipe.changes,
        seed=recipe.seed,
        first_epoch=epoch,
        epochs=1,
    )
    size = min(recipe.batch_size, len(source))
    count = min(-(-images // size), steps_per_epoch(source, recipe.batch_size))
    if streamed:
        yield from (batch for batch, _ in batches.take(count).as_numpy_iterator())
    else:
        yield from (batches[number][0] for number in range(count))


def evaluation_batches(source, image_size, batch_size):
    """Yields every image of a source once, in order: a float32 array (batch, height, width,
    channels) in 0..255, int32 array (batch,).
    """
    batches = _pipeline()(source, image_size, batch_size)
    if isinstance(batches, keras.utils.PyDataset):
        for number in range(batches.num_batches):
            yield batches[number]
    else:
        yield from batches.as_numpy_iterator()


@contextlib.contextmanager
def stated_data_errors():
    """Raises the DMFormerError that TensorFlow has wrapped in an error of its own.

    TensorFlow does so with every error that is raised while an image is prepared.
    """
    try:
        yield
    except DMFormerError:
        raise
    except Exception as error:
        stated = re.search(r"DMFormerError: (.*)", str(error))
        if stated is None:
            raise
        raise DMFormerError(stated.group(1)) from error


def tensorflow_is_installed():
    """Tells whether TensorFlow can be imported, without importing it."""
    return importlib.util.find_spec("tensorflow") is not None


def _pipeline():
    if not tensorflow_is_installed():
        return to_py_dataset
    if keras.backend.backend() != "tensorflow":
        _leave_accelerators_to_the_backend()
    return to_tf_dataset


def _leave_accelerators_to_the_backend():
    import tensorflow as tf

    # TensorFlow would take the memory of every GPU that it sees. It refuses where it
    # is already in use, and then the caller has chosen.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
