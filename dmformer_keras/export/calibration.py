"""The images on which an export measures ranges, and on which it is compared."""

import os

import numpy as np

from dmformer_keras.data import load_example, open_source
from dmformer_keras.data.image_source import ImageSource
from dmformer_keras.errors import DMFormerError
from dmformer_keras.export.quiet import LOG

# Images of a data source; fewer with masks, because all outputs are held at once.
_MOST_IMAGES = {"classify": 100, "features": 100, "segment": 50}


def calibration_images(data, prepared):
    """Returns the images by which the ranges of activations are measured: a float32 array (count,
    height, width, channels).
    """
    if data is None:
        raise DMFormerError(
            'quantization="int8" needs representative_data: pass some 100 images of the kind '
            "the model will meet, from which the ranges of the activations are measured."
        )
    images = images_of(data, prepared, "train", "representative_data")
    # The range of the input is known; dark photographs must not make it narrower.
    values = prepared.description["input"]
    for place, pixel in enumerate((0, 255)):
        images[0, 0, place] = (pixel - values["mean"]) / values["std"]
    return images


def batches(images, batch_size):
    """Yields images in batches of one size; the last ones are the first images again."""
    count = -(-len(images) // batch_size) * batch_size
    images = np.resize(images, (count, *images.shape[1:]))
    for start in range(0, count, batch_size):
        yield images[start : start + batch_size]


def images_of(data, prepared, split, argument):
    """Reads images for a model from wherever they are; returns a float32 array (count, height,
    width, channels), in the values that the model takes.
    """
    shape, description = prepared.shape, prepared.description
    if isinstance(data, (str, os.PathLike)) or _is_labeled(data, shape):
        task = "segment" if description["task"] == "segment" else "classify"
        # Only images that are read are verified.
        data = open_source(data, split, task=task, channels=shape[2], verify=False)
    if isinstance(data, ImageSource):
        return _sampled(data, prepared)
    try:
        images = [np.asarray(image, "float32") for image in data]
    except (TypeError, ValueError) as error:
        raise DMFormerError(
            f"{argument} must be a data source or images, not {type(data).__name__}."
        ) from error
    wanted = shape if None not in shape else (images[0].shape if images else shape)
    if images and None in shape and len({image.shape for image in images}) > 1:
        raise DMFormerError(f"{argument} must hold images of one size; resize them.")
    fits = images and all(image.shape == wanted and image.ndim == 3 for image in images)
    if not fits or images[0].shape[2] != shape[2]:
        found = sorted({image.shape for image in images})
        raise DMFormerError(
            f"{argument} must hold images of shape {shape}, not {found or 'none at all'}."
        )
    return np.stack(images)


def _is_labeled(data, shape):
    """Tells (images, labels) or (images, masks), with class names or not, from two images."""

    def is_image(part):
        own = getattr(part, "shape", ())
        return len(own) == 3 and own[2] == shape[2]

    return isinstance(data, tuple) and len(data) in (2, 3) and not all(map(is_image, data))


def made_up_images(prepared, count=8, seed=0):
    """Returns smooth random images, which are more like photographs than noise is: a float32 array
    (count, height, width, channels), in the values that the model takes.
    """
    height, width, channels = (side or 128 for side in prepared.shape)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    images = np.zeros((count, height, width, channels))
    for _ in range(12):
        rates = rng.normal(0, 6, (2, count, 1, 1, channels))
        phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, channels))
        angle = rates[0] * rows[..., None] / height + rates[1] * columns[..., None] / width
        images += rng.uniform(0, 1, (count, 1, 1, channels)) * np.sin(2 * angle + phase)
    images = 127.5 + 60 * images + rng.normal(0, 8, images.shape)
    return _in_range(np.clip(images, 0, 255), prepared)


def _sampled(source, prepared):
    """Returns images of a source, evenly spread over it."""
    shape = prepared.shape
    if source.channels != shape[2]:
        raise DMFormerError(
            f"{source.title} has images of {source.channels} channels, and the model takes "
            f"{shape[2]}; open it with channels={shape[2]}."
        )
    size = tuple(side or 224 for side in shape[:2])
    most = _MOST_IMAGES[prepared.description["task"]]
    chosen = np.linspace(0, len(source) - 1, min(most, len(source))).round().astype(int)
    LOG.info("Reading %d images of %s", len(chosen), source.title)
    images = [load_example(source, int(index), size, None, 0, 0)[0] for index in chosen]
    return _in_range(np.stack(images), prepared)


def _in_range(images, prepared):
    """Brings images in 0..255 to the values that the model takes."""
    values = prepared.description["input"]
    return ((images - values["mean"]) / values["std"]).astype("float32")
