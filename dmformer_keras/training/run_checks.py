"""Checks before a run begins: that its settings, images and devices fit together."""

from importlib.util import find_spec

import keras

from dmformer_keras.data import steps_per_epoch
from dmformer_keras.data.tfds_source import StreamSource
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.training.batches import tensorflow_is_installed


def check_tensorboard():
    """Checks that logs for TensorBoard can be written."""
    if not (tensorflow_is_installed() and find_spec("tensorboard")):
        raise DMFormerError(
            "Logs for TensorBoard are written by TensorFlow and tensorboard: pip install "
            "tensorflow tensorboard; or leave tensorboard out, history.csv has the same."
        )


def check_classes(source, kind):
    """Checks that there are at least two classes."""
    if len(source.class_names) < 2:
        raise DMFormerError(
            f"{source.title} has one class only, and a {kind} needs two or more; give images of "
            "another class, too."
        )


def steps_of_epoch(recipe, source):
    """Returns the batches of an epoch: of a pass over the images, or of what the recipe says."""
    images = recipe.images_per_epoch
    if images is None:
        return steps_per_epoch(source, recipe.batch_size)
    if isinstance(source, StreamSource):
        raise DMFormerError(
            f"{source.title} is streamed, and its epochs are whole passes; leave out "
            "images_per_epoch."
        )
    return max(1, images // min(recipe.batch_size, len(source)))


def check_updates(recipe, steps):
    """Checks that the weights will be updated at least once."""
    batches = recipe.epochs * steps
    if recipe.accumulate > batches:
        raise DMFormerError(
            f"accumulate={recipe.accumulate} batches make one update, and the whole "
            f"training has {batches}; accumulate fewer, or train for more epochs."
        )


def check_distribution(recipe, source, distribution):
    """Checks that a recipe can be trained on the available devices."""
    batch_size = min(recipe.batch_size, len(source))
    if batch_size % distribution.replicas:
        raise DMFormerError(
            f"A batch of {batch_size} images cannot be shared evenly by "
            f"{distribution.replicas} devices; choose a batch size that can."
        )
    if recipe.augment_on_device and (distribution.replicas > 1 or distribution.shard[1] > 1):
        raise DMFormerError(
            "augment_on_device is for training on one device; leave it out on several."
        )
    # Where copies see a part of the batch each; under JAX there is one model.
    if recipe.lovasz and distribution.has_copies:
        raise DMFormerError(
            "The Lovász loss sorts all pixels of a batch, which lie on several devices; leave "
            "out lovasz, or train with JAX."
        )
    if distribution.optimizer_class is not None and recipe.optimizer != "adamw":
        raise DMFormerError(
            f"TensorFlow's copies of a model are trained by adamw only, not by {recipe.optimizer}; "
            "choose the optimizer adamw, or train with JAX or PyTorch."
        )
    # Both decide whether to update within the graph, where TensorFlow's copies cannot meet.
    conditional = recipe.accumulate > 1 or recipe.precision == "mixed_float16"
    if distribution.optimizer_class is not None and conditional:
        raise DMFormerError(
            "TensorFlow can neither accumulate gradients nor train in mixed_float16 on several "
            "devices; leave out accumulate, take mixed_bfloat16, or train with JAX or PyTorch."
        )


def checked_callbacks(callbacks):
    """Returns callbacks that can do their work here, told which way their figure is better."""
    callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise DMFormerError(
                f"callbacks must be a list of keras.callbacks.Callback, not of {shown(callback)}."
            )
        setting = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
        if isinstance(callback, setting):
            raise DMFormerError(
                f"The recipe says what the learning rate is in every step, and "
                f"{type(callback).__name__} would set another; leave it out, and choose the "
                "recipe's learning_rate and warmup_epochs."
            )
        # Keras knows this of its own metrics only.
        monitor = getattr(callback, "monitor", None)
        measured = isinstance(monitor, str) and monitor.startswith(("val_", "accuracy"))
        if measured and getattr(callback, "mode", None) == "auto":
            callback.mode = "min" if monitor == "val_loss" else "max"
    return callbacks
