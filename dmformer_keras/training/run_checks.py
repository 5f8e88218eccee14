"""What is checked of a run before it begins: that its settings, images and devices fit."""

from importlib.util import find_spec

from dmformer_keras.data import steps_per_epoch
from dmformer_keras.data.tfds_source import StreamSource
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training.batches import tensorflow_is_installed


def check_tensorboard():
    """Checks that logs for TensorBoard can be written.

    Raises:
        DMFormerError: TensorFlow or tensorboard is not installed.
    """
    if not (tensorflow_is_installed() and find_spec("tensorboard")):
        raise DMFormerError(
            "Logs for TensorBoard are written by TensorFlow and tensorboard: pip install "
            "tensorflow tensorboard; or leave tensorboard out, history.csv has the same."
        )


def check_classes(source, kind):
    """Checks that there is something to tell apart.

    Args:
        source: ImageSource, the training images.
        kind: str, "classifier" or "segmenter".

    Raises:
        DMFormerError: the images are all of one class.
    """
    if len(source.class_names) < 2:
        raise DMFormerError(
            f"{source.title} has one class only, and a {kind} needs two or more; give images of "
            "another class, too."
        )


def steps_of_epoch(recipe, source):
    """Returns the batches of an epoch: of a pass over the images, or of what the recipe says.

    Args:
        recipe: Recipe or SegmentationRecipe.
        source: ImageSource, the training images.

    Raises:
        DMFormerError: the recipe says a number of images, and these are streamed.
    """
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
    """Checks that there will be an update of the weights.

    Args:
        recipe: Recipe or SegmentationRecipe.
        steps: int, batches per epoch.

    Raises:
        DMFormerError: more batches are accumulated than the whole training has.
    """
    batches = recipe.epochs * steps
    if recipe.accumulate > batches:
        raise DMFormerError(
            f"accumulate={recipe.accumulate} batches make one update, and the whole "
            f"training has {batches}; accumulate fewer, or train for more epochs."
        )


def check_distribution(recipe, source, distribution):
    """Checks that a recipe can be trained on the devices that there are.

    Args:
        recipe: Recipe or SegmentationRecipe.
        source: ImageSource, the training images.
        distribution: what `dmformer_keras.training.distribution.join` returns.

    Raises:
        DMFormerError: a batch cannot be shared evenly, or a setting is for one device.
    """
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
    if getattr(recipe, "lovasz", 0) and distribution.has_copies:
        raise DMFormerError(
            "The Lovász loss sorts all pixels of a batch, which lie on several devices; leave "
            "out lovasz, or train with JAX."
        )
    # Both decide whether to update within the graph, where TensorFlow's copies cannot meet.
    conditional = recipe.accumulate > 1 or recipe.precision == "mixed_float16"
    if distribution.optimizer_class is not None and conditional:
        raise DMFormerError(
            "TensorFlow can neither accumulate gradients nor train in mixed_float16 on several "
            "devices; leave out accumulate, take mixed_bfloat16, or train with JAX or PyTorch."
        )
