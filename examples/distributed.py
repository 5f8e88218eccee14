"""Trains one model on several devices, the same on every backend: handwritten digits, offline.

    KERAS_BACKEND=tensorflow python examples/distributed.py          # all GPUs there are
    KERAS_BACKEND=jax python examples/distributed.py
    KERAS_BACKEND=torch torchrun --nproc-per-node=8 examples/distributed.py

To try it without GPUs, `--processors 2` divides the processor into two devices (PyTorch:
`--nproc-per-node=2`). Needs the extra `quickstart` (scikit-learn, which holds the digits). For
several hosts see docs/distributed.md.
"""

import argparse
import os

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--processors", type=int, help="number of devices to divide the processor into")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--images-per-epoch", type=int, help="a part of a pass, to try it sooner")
parser.add_argument("--batch-size", type=int, default=64, help="total over all devices")
parser.add_argument("--output", default="runs/distributed", help="a new folder")
arguments = parser.parse_args()

if arguments.processors:  # JAX reads this when it is imported
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={arguments.processors}"
    )

import keras  # noqa: E402

from dmformer_keras.training import Recipe, train  # noqa: E402

if arguments.processors and keras.config.backend() == "tensorflow":
    import tensorflow as tf

    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * arguments.processors
    )

recipe = Recipe(
    epochs=arguments.epochs,
    images_per_epoch=arguments.images_per_epoch,
    batch_size=arguments.batch_size,  # divided over the devices; the learning rate is not changed
    image_size=32,
    channels=1,
    learning_rate=3e-3,
    augmentation="light",
)
evaluation = train(recipe, "dmformer_n", "digits", arguments.output, distribute=True, verbose=2)
if evaluation is not None:  # with several processes, only the one that writes the folder has it
    print(f"saved to {arguments.output}, validation top-1 {evaluation.top1:.3f}")
