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

from dmformer_keras.training import Recipe, engine, load_classifier, train  # noqa: E402

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
)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (56, 32, 32, 3)).astype("uint8")
data = (images, np.arange(56) % 4, list("abcd"))


def run(name, **options):
    return train(recipe, folder / "preset", data, folder / name, verbose=2, **options)


def outcome(name):
    """All weights that count, the optimizer's state, and the figures of each epoch."""
    (last,) = (folder / name / "checkpoint").glob("*.keras")
    model = keras.saving.load_model(last)
    weights = [*model.weights, *model.optimizer.variables, *load_classifier(folder / name).weights]
    lines = (folder / name / "history.csv").read_text().splitlines()[1:]
    figures = [[float(figure) for figure in line.split(",")[:-1]] for line in lines]
    return [np.array(figures), *(keras.ops.convert_to_numpy(weight) for weight in weights)]


def interrupt(self, batch, logs=None):
    if self.epoch == 3:
        raise KeyboardInterrupt


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
    print("Equal")
