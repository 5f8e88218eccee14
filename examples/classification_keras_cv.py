"""Trains KerasCV's ImageClassifier on a DMFormer backbone: handwritten digits, offline.

    python examples/classification_keras_cv.py --epochs 3

Needs the extras `keras-cv` and `quickstart` (scikit-learn, which holds the digits).
"""

import argparse

import keras
import keras_cv
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import dmformer_keras  # noqa: F401, adds keras_cv.models.DMFormerBackbone

IMAGE_SIZE = 32
BATCH_SIZE = 64


def digits():
    """Returns a training and a test pipeline of (image, label) batches, pixels in 0..255."""
    data = load_digits()
    images = (data.images[..., np.newaxis] / data.images.max() * 255.0).astype("float32")
    images = tf.image.resize(images, (IMAGE_SIZE, IMAGE_SIZE))
    dataset = tf.data.Dataset.from_tensor_slices((images, data.target))
    dataset = dataset.shuffle(len(images), seed=0, reshuffle_each_iteration=False)
    test, train = dataset.take(300), dataset.skip(300)
    train = train.shuffle(len(images), seed=0).batch(BATCH_SIZE, drop_remainder=True)
    return train.prefetch(tf.data.AUTOTUNE), test.batch(BATCH_SIZE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", default="digits.keras")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    train, test = digits()
    # A shallower DMFormer-N, which trains in seconds on a CPU. Leave out `depths` for all blocks.
    backbone = keras_cv.models.DMFormerBackbone.from_preset(
        "dmformer_n", depths=(1, 1, 1, 1), input_shape=(IMAGE_SIZE, IMAGE_SIZE, 1)
    )
    model = keras_cv.models.ImageClassifier(backbone, num_classes=10)
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(train, validation_data=test, epochs=arguments.epochs)

    model.save(arguments.output)
    restored = keras.models.load_model(arguments.output)
    accuracy = restored.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    print(f"saved to {arguments.output}, test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
