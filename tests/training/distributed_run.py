"""Run by test_distribution in processes of their own: trains together, then alone, and compares.

    python distributed_run.py FOLDER DEVICES

The devices are those that one process sees; several processes are told by their environment.
"""

import os
import sys
from pathlib import Path

import keras
import numpy as np

folder, devices = Path(sys.argv[1]), int(sys.argv[2])
if keras.config.backend() == "tensorflow" and devices > 1:
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from dmformer_keras.layers import replicas  # noqa: E402
from dmformer_keras.training import (  # noqa: E402
    Recipe,
    SegmentationLoss,
    distribution,
    engine,
    load_classifier,
    train,
)

recipe = Recipe(
    epochs=3,
    batch_size=16,
    image_size=40,
    # Each size more is one more to compile, which TensorFlow and JAX take long for.
    progressive_resizing=((32, 2),) if devices == 1 else (),
    learning_rate=3e-3,
    layer_decay=0.8,
    clip_norm=0.5,  # which clips
    ema=0.5,
    # So that the epoch before the interruption is the best one, which resuming saves again.
    validate_every=2,
)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (56, 32, 32, 3)).astype("uint8")
data = (images, np.arange(56) % 4, list("abcd"))


def run(name, **options):
    options |= {"teacher": folder / "preset", "teacher_classes": list("wbca")}
    return train(recipe, folder / "preset", data, folder / name, verbose=2, **options)


def outcome(name):
    """All weights that count, the optimizer's state, and the figures of each epoch."""
    (last,) = (folder / name / "checkpoint").glob("*.keras")
    model = keras.saving.load_model(last)
    weights = [*model.weights, *model.optimizer.variables, *load_classifier(folder / name).weights]
    lines = (folder / name / "history.csv").read_text().splitlines()[1:]
    figures = [[float(figure or 0) for figure in line.split(",")[:-1]] for line in lines]
    return [np.array(figures), *(keras.ops.convert_to_numpy(weight) for weight in weights)]


def interrupt(self, batch, logs=None):
    if self.epoch == 3:
        raise KeyboardInterrupt


def check_segmentation_loss():
    """The loss and its gradient, of copies that see the halves of a batch, and of the whole."""
    loss = SegmentationLoss(class_weights=[1, 2, 3], dice=0.5)
    masks = rng.integers(0, 3, (4, 8, 8)).astype("float32")
    masks[:2, :6] = 255  # the halves have other numbers of known pixels
    logits = rng.normal(size=(4, 8, 8, 3)).astype("float32")
    if keras.config.backend() == "torch":
        import torch

        def value_and_gradient(part):
            factor = torch.ones((), requires_grad=True)
            value = loss(masks[part], factor * torch.from_numpy(logits[part]))
            value.backward()
            return torch.stack([value.detach(), factor.grad])

        whole = value_and_gradient(slice(None))
        half = slice(0, 2) if torch.distributed.get_rank() == 0 else slice(2, 4)
        with replicas.together():
            shared = value_and_gradient(half)
        torch.distributed.all_reduce(shared)
    else:

        def value_and_gradient(masks, logits):
            factor = tf.ones(())
            with tf.GradientTape() as tape:
                tape.watch(factor)
                value = loss(masks, factor * logits)
            return tf.stack([value, tape.gradient(value, factor)])

        whole = value_and_gradient(masks, logits)
        strategy = distribution.join(True).strategy  # the one that has trained
        halves = tf.data.Dataset.from_tensor_slices((masks, logits)).batch(4)
        halves = next(iter(strategy.experimental_distribute_dataset(halves)))
        shared = tf.function(lambda: strategy.run(value_and_gradient, args=halves))()
        shared = strategy.reduce("SUM", shared, axis=None)
    np.testing.assert_allclose(np.asarray(shared) / 2, np.asarray(whole), rtol=1e-5)


number = int(os.environ.get("RANK", os.environ.get("PROCESS", 0)))
# TensorFlow's processes can be joined once only; and one device more takes long to compile.
resumes = devices == 1 and keras.config.backend() != "tensorflow"
if resumes:
    whole, engine._EpochEnd.on_train_batch_end = engine._EpochEnd.on_train_batch_end, interrupt
    try:
        run("together", distribute=True)
    except KeyboardInterrupt:
        engine._EpochEnd.on_train_batch_end = whole
together = run("together", distribute=True, resume=resumes)
assert (together is None) == (number > 0)
if number == 0:
    print("Together:", together.metrics())
    print("Alone:", run("alone").metrics())
    for one, other in zip(outcome("together"), outcome("alone"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)
if keras.config.backend() == "torch" or (keras.config.backend() == "tensorflow" and devices > 1):
    check_segmentation_loss()
if number == 0:
    print("Equal")
