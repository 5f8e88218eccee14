"""Trains KerasCV's SegFormer or DeepLabV3Plus on a DMFormer backbone: drawn shapes, offline.

    python examples/segmentation_keras_cv.py
    python examples/segmentation_keras_cv.py --head DeepLabV3Plus --data FOLDER --image-size 256

Needs the extra `keras-cv`. FOLDER holds images/ and masks/, as `dmformer_keras.data.open_source`
describes them; pixels of the label 255 are ignored.
"""

import argparse
from pathlib import Path

import keras
import keras_cv
import numpy as np

import dmformer_keras
from dmformer_keras.data import JointAugmentation, open_source, steps_per_epoch, to_tf_dataset
from dmformer_keras.drawing import draw_overlay
from dmformer_keras.inference import segment_image
from dmformer_keras.training import PixelAccuracy, SegmentationLoss, evaluate_segmenter

BATCH_SIZE = 8
CLASSES = ["background", "square", "disc"]
COLORS = {1: (1.0, 0.4, 0.4), 2: (0.4, 0.9, 0.5)}


def drawn_shapes(count, size):
    """Returns images of a square and a disc, masks with ignored borders, and class names."""
    random = np.random.default_rng(0)
    images = random.integers(0, 60, (count, size, size, 3)).astype("uint8")
    masks = np.zeros((count, size, size), "uint8")
    rows, columns = np.mgrid[:size, :size]
    for image, mask in zip(images, masks, strict=True):
        for label, color in COLORS.items():
            radius = random.integers(size // 8, size // 5)
            row, column = random.integers(radius, size - radius, 2)
            down, right = abs(rows - row), abs(columns - column)
            distance = np.maximum(down, right) if label == 1 else np.hypot(down, right)
            image[distance < radius] = random.uniform(120, 255) * np.array(color)
            mask[distance < radius + 1] = 255
            mask[distance < radius - 1] = label
    return images, masks, CLASSES


def with_logits(model):
    """Returns a model with the same weights that returns logits.

    KerasCV's heads return probabilities (SegFormer's are resized after the softmax). Their
    logarithms are logits, because a softmax over them gives the same probabilities. With PyTorch
    this also avoids an error: `sparse_categorical_crossentropy` fails on probabilities with four
    dimensions ("grad_input must be contiguous").
    """
    return keras.Model(model.input, keras.ops.log(keras.ops.maximum(model.output, 1e-7)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", choices=["SegFormer", "DeepLabV3Plus"], default="SegFormer")
    parser.add_argument("--data", help="folder or zip of images/ and masks/; default: drawn shapes")
    parser.add_argument("--image-size", type=int, default=64, help="a multiple of 32")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=64, help="images to draw")
    parser.add_argument("--output", default="segmenter.keras")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    size = arguments.image_size
    data = arguments.data or drawn_shapes(arguments.images, size)
    train = open_source(data, "train", task="segment")
    val = open_source(data, "val", task="segment")
    # "light" suits drawings, "standard" photographs.
    augmentation = JointAugmentation.named("standard" if arguments.data else "light")
    batches = to_tf_dataset(train, size, BATCH_SIZE, training=True, augmentation=augmentation)

    # For the drawings a shallower DMFormer-N, which trains in seconds on a CPU.
    depths = {} if arguments.data else {"depths": (1, 1, 1, 1)}
    # Both heads upsample by fixed factors, so they need a fixed size and an output stride of 32.
    backbone = keras_cv.models.DMFormerBackbone.from_preset(
        "dmformer_n", input_shape=(size, size, 3), **depths
    )
    head = getattr(keras_cv.models, arguments.head)
    model = head(backbone=backbone, num_classes=len(train.class_names), projection_filters=48)

    trained = with_logits(model)
    trained.compile(
        optimizer=keras.optimizers.AdamW(2e-3), loss=SegmentationLoss(), metrics=[PixelAccuracy()]
    )
    trained.fit(
        batches,
        steps_per_epoch=steps_per_epoch(train, BATCH_SIZE),
        epochs=arguments.epochs,
        shuffle=False,
        validation_data=to_tf_dataset(val, size, BATCH_SIZE),
    )

    model.save(arguments.output)
    # Faster, with the same outputs: every BatchNorm is folded into its neighbors.
    restored = dmformer_keras.fuse(keras.models.load_model(arguments.output))
    # Images of any size: those larger than the model's size are cut into overlapping windows.
    evaluation = evaluate_segmenter(restored, val)
    for name, iou in evaluation.class_iou.items():
        print(f"{name:>12}: IoU {'-' if iou is None else format(iou, '.3f')}")
    image, _ = val.read(0)
    picture = draw_overlay(image, segment_image(restored, image), val.class_names, val.class_colors)
    overlay = Path(arguments.output).with_suffix(".png")
    picture.save(overlay)
    print(f"saved to {arguments.output}, val mIoU {evaluation.miou:.3f}; a result: {overlay}")


if __name__ == "__main__":
    main()
