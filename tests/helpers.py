"""What several tests share: random weights, images, small models, gradients, processes."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np

from dmformer_keras import DMFormerBackbone, DMFormerClassifier, DMFormerError
from dmformer_keras.system.memory import peak_resident, resident_now

BACKENDS = ("tensorflow", "jax", "torch")
TINY = {"channels": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}
# For what TensorFlow traces and JAX compiles: the more weights, the longer.
TINIEST = {"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "levels": ((3, 1), (5, 2))}
# For what is about training, whatever the model.
TO_TRAIN = {**TINIEST, "levels": ((3, 1),), "use_gate": False}


def tiny_backbone(**overrides):
    return DMFormerBackbone(**{**TINY, "input_shape": (64, 64, 3), **overrides})


def tiny_classifier(num_classes=5, class_names=None, **overrides):
    return DMFormerClassifier(tiny_backbone(**overrides), num_classes, class_names=class_names)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def shapes(number, size=(64, 64), seed=0, void=True):
    """(images, masks, names): boxes and discs on a noisy ground, their class told by color.

    A frame of two pixels has no class where `void` is set.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    pictures, masks = [], []
    for _ in range(number):
        mask = np.zeros(size, "uint8")
        for label in (1, 2):
            row, column = (rng.integers(side // 4, 3 * side // 4) for side in size)
            reach = rng.integers(min(size) // 6, min(size) // 3)
            apart = np.abs(rows - row), np.abs(columns - column)
            inside = np.maximum(*apart) < reach if label == 1 else np.hypot(*apart) < reach
            mask[inside] = label
        colors = np.array([[70, 70, 70], [200, 90, 60], [60, 110, 210]])[mask]
        pictures.append((colors + rng.integers(-30, 31, colors.shape)).astype("uint8"))
        if void:
            mask[:2] = mask[-2:] = 255
            mask[:, :2] = mask[:, -2:] = 255
        masks.append(mask)
    return np.stack(pictures), np.stack(masks), ["ground", "box", "disc"]


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def randomize(model, seed=0):
    """Gives every weight a random value, BatchNorm statistics included, all of a sane size.

    The last convolution of each residual branch is kept small, as training does: branches
    that double the stream in every block drive the gates into steps, and such a network
    amplifies float32's rounding ten thousand times.
    """
    random = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "variance" in variable.path or "gamma" in variable.path:
            value = random.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            # Kernels: unit gain. A depthwise kernel (k, k, channels, 1) sums over k * k.
            depthwise = len(shape) == 4 and shape[-1] == 1
            fan_in = np.prod(shape[:2]) if depthwise else np.prod(shape[:-1])
            gain = 0.2 if "project/" in variable.path else 1.0
            value = random.normal(0, gain / np.sqrt(fan_in), shape)
        else:
            value = random.normal(0, 0.2, shape)
        variable.assign(value.astype("float32"))
    return model


def compiled(model, optimizer, **options):
    """Compiles a classifier and builds its optimizer, or TensorFlow traces the first step twice."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **options)
    model.optimizer.build(model.trainable_variables)
    return model


def compiled_for_a_step(model, optimizer):
    """`compiled`, run eagerly by TensorFlow: tracing a step takes as long as fifty steps."""
    return compiled(model, optimizer, run_eagerly=keras.config.backend() == "tensorflow")


def loss_and_gradients(layer, inputs, cotangent, training=False):
    """Returns sum(layer(inputs) * cotangent), and its gradients for the inputs and the weights."""
    backend = keras.config.backend()
    trainable = layer.trainable_variables
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.constant(inputs)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=training) * cotangent)
        for_x, *for_weights = tape.gradient(loss, [x, *[v.value for v in trainable]])
    elif backend == "torch":
        import torch

        x = torch.tensor(inputs, requires_grad=True)
        loss = (layer(x, training=training) * torch.tensor(cotangent)).sum()
        for_x, *for_weights = torch.autograd.grad(loss, [x, *[v.value for v in trainable]])
    else:
        import jax

        fixed = [v.value for v in layer.non_trainable_variables]

        def function(x, values):
            outputs, _ = layer.stateless_call(values, fixed, x, training=training)
            return (outputs * cotangent).sum()

        loss, (for_x, for_weights) = jax.value_and_grad(function, argnums=(0, 1))(
            inputs, [v.value for v in trainable]
        )
    return float(array(loss)), array(for_x), [array(gradient) for gradient in for_weights]


def run_python(code, backend=None, timeout=300, folder=None, **environment):
    """Runs code in a process of its own; returns its standard output, or fails with its errors.

    Python looks for modules in `folder` (this one, by default) before anywhere else.
    """
    backend = backend or keras.config.backend()
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": backend, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def stated(work, *names):
    """Does work that may end in one sentence, which names the file; tells whether it did.

    Five seconds of the processor and a gibibyte are all that it may take.
    """
    with contextlib.suppress(OSError):  # Linux alone forgets the most that was held
        Path("/proc/self/clear_refs").write_text("5")
    before, started = resident_now(), time.process_time()
    try:
        work()
    except DMFormerError as error:
        text = str(error)
        assert len(text) <= 400, text
        assert "\n" not in text
        text.encode("utf-8")
        assert not names or any(name in text for name in names), text
        return True
    finally:
        assert time.process_time() - started < 5
        assert peak_resident() - before < 2**30
    return False
