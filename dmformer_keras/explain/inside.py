"""A look at what layers inside a model return, and gradients with respect to it.

Layers are found wherever they are nested, and watched in place: no second model is built.
"""

import contextlib

import keras
import numpy as np
from keras import ops

from dmformer_keras.errors import DMFormerError
from dmformer_keras.layers import DMFormerBlock
from dmformer_keras.layers.fused import FusedDMFormerBlock


def blocks_of(model):
    """The DMFormer blocks of a model, however deep its backbone is nested in it: a dict of layers
    by name, such as "stage1_block1", in the order of the network.
    """
    found = {}

    def look(layer):
        is_block = isinstance(layer, (DMFormerBlock, FusedDMFormerBlock))
        if is_block and found.setdefault(layer.name, layer) is not layer:
            raise DMFormerError(
                f"{model.name!r} has several DMFormer backbones; give one of them, or a model with "
                "one."
            )
        for inner in getattr(layer, "layers", ()):
            look(inner)

    look(model)
    if not found:
        raise DMFormerError(
            f"{model.name!r} has no DMFormer blocks; give a model with a DMFormerBackbone."
        )
    return found


@contextlib.contextmanager
def changed_outputs(changes):
    """Replaces the outputs of layers by a function of them, within a `with` block."""
    try:
        for layer, change in changes:
            layer.call = _changed(layer.call, change)
        yield
    finally:
        for layer, _ in changes:
            layer.__dict__.pop("call", None)  # the method of the class is used again


def _changed(call, change):
    def changed_call(*args, **kwargs):
        return change(call(*args, **kwargs))

    return changed_call


def outputs_of(model, layers, images):
    """Runs a model; returns its output, and a dict of what layers inside it returned, tensors."""
    seen = {}

    def keep(name):
        def kept(output):
            seen[name] = output
            return output

        return kept

    with changed_outputs([(layer, keep(name)) for name, layer in layers.items()]):
        outputs = model(ops.convert_to_tensor(images, "float32"), training=False)
    return outputs, seen


def gradient(function, value):
    """The gradient of a function to a number: a float32 array, as `value`."""
    backend = keras.backend.backend()
    value = ops.convert_to_tensor(value, "float32")
    # Keras has no function for gradients, so each backend has its own.
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(value)
            result = function(value)
        found = tape.gradient(result, value)
    elif backend == "jax":
        import jax

        found = jax.grad(function)(value)
    elif backend == "torch":
        import torch

        with torch.enable_grad():
            value = value.detach().requires_grad_()
            (found,) = torch.autograd.grad(function(value), value)
    else:
        raise DMFormerError(
            f"Gradients are not possible with Keras's backend {backend}; set KERAS_BACKEND to "
            "tensorflow, jax or torch."
        )
    return ops.convert_to_numpy(found)


def checked_images(model, images):
    """Checks images for a model; returns a float32 array."""
    images = np.asarray(images)
    # A Sequential model that has not been called has no input shape.
    inputs = getattr(model, "inputs", None)
    shape = inputs[0].shape if inputs else (None,) * 4
    expected = tuple("any" if side is None else side for side in shape[1:])
    fits = images.ndim == 4 and all(
        side in (None, own) for side, own in zip(shape[1:], images.shape[1:], strict=True)
    )
    if not fits or not len(images):
        raise DMFormerError(
            f"Images must be an array (number, {', '.join(map(str, expected))}) in 0..255, as the "
            f"model takes them, not of shape {images.shape}; see dmformer_keras.data.load_image."
        )
    return images.astype("float32")
