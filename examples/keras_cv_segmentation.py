"""Trains KerasCV's SegFormer on a DMFormer backbone: drawn shapes, offline.

    python examples/keras_cv_segmentation.py --epochs 6

Needs the extra `keras-cv`. `keras_cv.models.DeepLabV3Plus` is used in the same way.
"""

import argparse

import keras
import keras_cv
import numpy as np
import tensorflow as tf

import dmformer_keras  # noqa: F401, brings keras_cv.models.DMFormerBackbone

# SegFormer needs a static size; DeepLabV3Plus takes multiples of 32.
IMAGE_SIZE = 64
BATCH_SIZE = 8
CLASSES = ("background", "square", "disc")


def draw(random):
    """Returns an image with a square and a disc in 0..255, and its mask of class numbers."""
    image = random.uniform(0, 60, (IMAGE_SIZE, IMAGE_SIZE, 3))
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), "int32")
    rows, columns = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    for label in (1, 2):
        radius = random.integers(8, 14)
        row, column = random.integers(radius, IMAGE_SIZE - radius, 2)
        if label == 1:
            inside = np.maximum(abs(rows - row), abs(columns - column)) < radius
        else:
            inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        image[inside] = random.uniform(100, 255, 3)
        mask[inside] = label
    return image.astype("float32"), mask


def shapes(count, seed):
    """Returns a pipeline of (image, one-hot mask) batches."""
    random = np.random.default_rng(seed)
    images, masks = map(np.stack, zip(*(draw(random) for _ in range(count)), strict=True))
    # KerasCV's segmentation models end in a softmax. On PyTorch the gradient of sparse
    # cross-entropy on such four-dimensional probabilities fails; with one-hot masks it works.
    masks = tf.one_hot(masks, len(CLASSES))
    dataset = tf.data.Dataset.from_tensor_slices((images, masks))
    return dataset.shuffle(count, seed=seed).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=128, help="training images to draw")
    parser.add_argument("--output", default="shapes.keras")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    train, test = shapes(arguments.images, seed=0), shapes(32, seed=1)
    # A shallower DMFormer-N: it trains in seconds on a CPU. Leave `depths` out for the whole.
    backbone = keras_cv.models.DMFormerBackbone.from_preset(
        "dmformer_n", depths=(1, 1, 1, 1), input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3)
    )
    model = keras_cv.models.SegFormer(
        backbone=backbone, num_classes=len(CLASSES), projection_filters=64
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3),
        loss="categorical_crossentropy",
        metrics=[keras.metrics.OneHotMeanIoU(len(CLASSES), sparse_y_pred=False, name="miou")],
    )
    model.fit(train, validation_data=test, epochs=arguments.epochs)

    model.save(arguments.output)
    restored = keras.models.load_model(arguments.output)
    miou = restored.evaluate(test, verbose=0, return_dict=True)["miou"]
    print(f"saved to {arguments.output}, test mIoU {miou:.3f}")


if __name__ == "__main__":
    main()
