"""Fine-tunes DMFormer by `model.fit` on your own tf.data pipeline.

    python examples/tf_data.py
    python examples/tf_data.py --data FOLDER --image-size 160 --preset dmformer_t_mix

FOLDER holds one folder per class; without it, shapes are drawn. First only the head is trained,
then the whole model, with lower learning rates for early layers. Needs the extra `tensorflow`,
under any Keras backend.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw

import dmformer_keras
from dmformer_keras.training import parameter_groups, with_parameter_groups

BATCH_SIZE = 16


def draw_shapes(folder, count, size):
    """Writes `count` images of discs and as many of squares, in one folder each."""
    random = np.random.default_rng(0)
    for name in ("disc", "square"):
        (folder / name).mkdir()
        for number in range(count):
            image = Image.fromarray(random.integers(0, 90, (size, size, 3), dtype=np.uint8))
            radius = random.integers(size // 6, size // 3)
            row, column = random.integers(radius, size - radius, 2)
            box = [column - radius, row - radius, column + radius, row + radius]
            draw = ImageDraw.Draw(image)
            shape = draw.ellipse if name == "disc" else draw.rectangle
            shape([int(side) for side in box], fill=tuple(random.integers(120, 256, 3).tolist()))
            image.save(folder / name / f"{number}.png")


def open_pipelines(folder, size):
    """Returns tf.data pipelines of (images in 0..255, labels) to train and validate; names."""
    train, val = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=BATCH_SIZE, validation_split=0.2,
        subset="both", seed=0, crop_to_aspect_ratio=True, verbose=False,
    )  # fmt: skip

    def mirrored(images, labels):
        return tf.image.random_flip_left_right(images), labels

    names = train.class_names
    train = train.map(mirrored, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return train, val, names


def fit(model, optimizer, train, val, epochs):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(train, validation_data=val, epochs=epochs, shuffle=False, verbose=2).history


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of class folders; default: shapes")
    parser.add_argument("--preset", default="dmformer_n_mix")
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each of the two trainings")
    parser.add_argument("--images", type=int, default=60, help="number of images per shape")
    parser.add_argument("--output", default="classifier.keras")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.data
        if folder is None:
            folder = Path(temporary)
            draw_shapes(folder, arguments.images, arguments.image_size)
        train, val, names = open_pipelines(folder, arguments.image_size)
        model = dmformer_keras.DMFormerClassifier.from_preset(
            arguments.preset,
            num_classes=len(names),
            class_names=names,
            input_shape=(arguments.image_size, arguments.image_size, 3),
        )
        model.backbone.trainable = False
        fit(model, keras.optimizers.AdamW(3e-3), train, val, arguments.epochs)
        model.backbone.trainable = True
        optimizer = with_parameter_groups(keras.optimizers.AdamW)(5e-4, weight_decay=0.05)
        optimizer.set_groups(parameter_groups(model, layer_decay=0.8))
        history = fit(model, optimizer, train, val, arguments.epochs)
    model.save(arguments.output)
    accuracy = history["val_accuracy"][-1]
    print(f"saved to {arguments.output}, validation accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
