"""Grad-CAM: where in an image the features lie that speak for a class."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from dmformer_keras.checks import is_positive_int
from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.explain.inside import (
    blocks_of,
    changed_outputs,
    checked_images,
    gradient,
    outputs_of,
)
from dmformer_keras.fusing import output_activation
from dmformer_keras.layers.common import channel_axis, spatial_axes


@dataclasses.dataclass(frozen=True)
class GradCam:
    """What `grad_cam` found.

    Args:
        heatmap: float32 array (height, width) of the image's size, 0 to 1: how much each place
            speaks for the class; all 0 where none does.
        class_index: int.
        score: float, the model's output for the class; of a segmenter, the mean over the pixels
            that count.
        share: float in 0..1, the probability of the class, or of a segmenter the share of the
            pixels that are of it; None where nobody has asked.
    """

    heatmap: np.ndarray
    class_index: int
    score: float
    share: float | None = None


def grad_cam(
    model: keras.Model,
    image: ArrayLike,
    class_index: int | None = None,
    layer: str | keras.Layer | None = None,
) -> GradCam:
    """Finds where in an image a model sees a class.

    The features of a layer are weighted by the mean of the gradient of the class's output with
    respect to each channel, added up, and what is negative is left out.

    Source: Selvaraju et al. 2017 (Grad-CAM); for segmenters, the mean output over the pixels that
    are of the class, after Vinogradova et al. 2020 (Seg-Grad-CAM).

    Args:
        model: `keras.Model` with a DMFormer backbone, which may be nested, from images to
            `(batch, classes)`, or to `(batch, height, width, classes)`.
        image: array (height, width, channels) in 0..255; (channels, height, width) where the model
            is channels_first.
        class_index: int, or None for the likeliest class; of a segmenter, that of most pixels.
            Of a model of one output, 1 is the class that it speaks for, and 0 the other.
        layer: `keras.layers.Layer` inside the model whose output, (batch, height, width,
            channels) or channels first, are the features; None for the last DMFormer block, or the
            name of one, such as "stage3_block2".

    Returns:
        GradCam.

    Raises:
        DMFormerError: an argument does not fit the model.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 96, 3), num_classes=10)
    >>> image = np.random.default_rng(0).integers(0, 256, (64, 96, 3))
    >>> grad_cam(model, image, class_index=3).heatmap.shape
    (64, 96)
    """
    image = np.asarray(image)
    if image.ndim == 4:
        raise DMFormerError(
            f"grad_cam takes one image, (height, width, channels), not a batch of shape "
            f"{image.shape}; call it for each."
        )
    images = checked_images(model, image[None])
    layer = _features_layer(model, layer)
    data_format = next(iter(blocks_of(model).values())).data_format
    outputs, seen = outputs_of(model, {"features": layer}, images)
    outputs = _by_class(model, outputs, data_format)
    class_index = _checked_class(outputs, class_index)
    counted = _counted_pixels(outputs, class_index)
    features = _checked_features(layer, seen)

    def score(change):
        def moved(output):
            return output + ops.cast(change, output.dtype)

        with changed_outputs([(layer, moved)]):
            found = model(ops.convert_to_tensor(images), training=False)
        values = _by_class(model, found, data_format)[..., class_index]
        return ops.sum(ops.cast(values, "float32") * ops.array(counted))

    # The gradient of the features equals the gradient of a zero tensor that is added to them.
    slopes = gradient(score, np.zeros_like(features))
    weights = slopes.mean(axis=spatial_axes(data_format), keepdims=True)
    heatmap = np.maximum((weights * features).sum(axis=channel_axis(data_format)), 0)[0]
    heatmap /= max(heatmap.max(), 1e-12)
    value = np.sum(ops.convert_to_numpy(outputs)[..., class_index] * counted)
    size = [images.shape[axis] for axis in spatial_axes(data_format)]
    return GradCam(_enlarged(heatmap, size), class_index, float(value))


def _by_class(model, outputs, data_format):
    """A model's outputs with the classes last; one output per image as those of two classes."""
    if len(outputs.shape) == 4 and data_format == "channels_first":
        return ops.transpose(outputs, (0, 2, 3, 1))
    if len(outputs.shape) == 2 and outputs.shape[-1] == 1:
        other = 1 - outputs if output_activation(model) == "sigmoid" else -outputs
        return ops.concatenate([other, outputs], axis=-1)
    return outputs


def _checked_features(layer, seen):
    """What a layer gave, as an array."""
    if "features" not in seen:
        raise DMFormerError(f"The model does not run the layer {layer.name!r}; give one inside it.")
    features = seen["features"]
    if len(getattr(features, "shape", ())) != 4:
        raise DMFormerError(
            f"The layer {layer.name!r} gives no map of features with a height and a width; choose "
            "an earlier one."
        )
    return ops.convert_to_numpy(features).astype("float32")


def _features_layer(model, layer):
    if isinstance(layer, keras.layers.Layer):
        return layer
    blocks = blocks_of(model)
    if layer is None:
        return list(blocks.values())[-1]
    if not isinstance(layer, str) or layer not in blocks:
        raise DMFormerError(
            f"The model has no DMFormer block {layer!r}; choose one of {', '.join(blocks)}, or "
            "give a layer."
        )
    return blocks[layer]


def _checked_class(outputs, class_index):
    shape = tuple(outputs.shape)
    if len(shape) not in (2, 4):
        raise DMFormerError(
            "Grad-CAM needs a model from images to (batch, classes) or (batch, height, width, "
            f"classes), and this one gives {shape}; give such a model."
        )
    if class_index is None:
        values = ops.convert_to_numpy(outputs)
        if len(shape) == 2:
            return int(values[0].argmax())
        return int(np.bincount(values[0].argmax(axis=-1).ravel()).argmax())
    is_index = class_index == 0 or is_positive_int(class_index)
    if not is_index or class_index >= shape[-1]:
        raise DMFormerError(
            f"class_index must be a whole number from 0 to {shape[-1] - 1}, not "
            f"{shown(class_index)}."
        )
    return int(class_index)


def _counted_pixels(outputs, class_index):
    """What the outputs of a class are multiplied by, and added up: those of its pixels, or all."""
    if len(outputs.shape) == 2:
        return np.ones(1, "float32")
    is_class = (ops.convert_to_numpy(outputs).argmax(axis=-1) == class_index).astype("float32")
    counted = is_class if is_class.any() else np.ones_like(is_class)
    return counted / counted.sum()


def _enlarged(heatmap, size):
    from PIL import Image

    image = Image.fromarray(heatmap.astype("float32"))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
