"""What every segmentation head on a DMFormer backbone must do, trained on drawn shapes."""

import types

import keras
import numpy as np

import dmformer_keras
from dmformer_keras.data import open_source
from dmformer_keras.inference import segment_image
from dmformer_keras.training import PixelAccuracy, SegmentationLoss, evaluate_segmenter

NAMES = ["background", "square", "disc"]
SIZE = 64
BACKBONE = {"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}
COLORS = {1: (250, 80, 80), 2: (80, 250, 80)}


def draw(count):
    """Returns uint8 images of a square and a disc each, and masks with a strip of 255."""
    random = np.random.default_rng(0)
    images = random.integers(0, 60, (count, SIZE, SIZE, 3)).astype("uint8")
    masks = np.zeros((count, SIZE, SIZE), "int32")
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for image, mask in zip(images, masks, strict=True):
        for label, color in COLORS.items():
            row, column = random.integers(14, SIZE - 14, 2)
            down, right = abs(rows - row), abs(columns - column)
            distance = np.maximum(down, right) if label == 1 else np.hypot(down, right)
            inside = distance < random.integers(9, 14)
            image[inside] = color
            mask[inside] = label
        mask[:, :3] = 255
    return images, masks


def train(model, logits):
    """Fits a head to a few images.

    Args:
        model: the library's model.
        logits: the same, or a model of its weights that ends in logits.

    Returns:
        namespace of the models, what they saw, the losses, and the weights before.
    """
    keras.utils.set_random_seed(0)
    images, masks = draw(4)
    before = {id(v): array(v).copy() for v in model.weights}
    logits.compile(
        optimizer=keras.optimizers.Adam(3e-3), loss=SegmentationLoss(), metrics=[PixelAccuracy()]
    )
    batch = images.astype("float32"), masks
    losses = logits.fit(*batch, batch_size=len(images), epochs=30, verbose=0).history["loss"]
    return types.SimpleNamespace(
        model=model, logits=logits, images=images, masks=masks, before=before, losses=losses
    )


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def predict(model, images):
    # Never plainly: Keras's Resizing, inside the heads, asks what follows it to train.
    return array(model(images.astype("float32"), training=False))


def assert_same(model, expected, images, atol):
    np.testing.assert_allclose(predict(model, images), predict(expected, images), atol=atol)


def batch_norms(model):
    layers = model._flatten_layers()
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


class SegmentationHeadTests:
    """For a module that has a fixture `trained`, which returns what `train` does."""

    backbone_class = None

    def backbone_of(self, model):
        return model.backbone

    def test_learns_the_images(self, trained):
        assert trained.losses[-1] < 0.15 * trained.losses[0]
        fused = dmformer_keras.fuse(trained.model)
        source = open_source((trained.images, trained.masks, NAMES), "all", task="segment")
        evaluation = evaluate_segmenter(fused, source)
        assert evaluation.pixel_accuracy > 0.9
        assert evaluation.miou > 0.7

    def test_every_weight_changes(self, trained):
        weights = trained.model.weights  # the statistics of BatchNorm too
        unchanged = [v.path for v in weights if np.array_equal(array(v), trained.before[id(v)])]
        assert unchanged == []

    def assert_restored(self, restored, trained):
        assert type(restored) is type(trained.model)
        assert type(self.backbone_of(restored)) is self.backbone_class
        assert_same(restored, trained.model, trained.images, atol=1e-6)

    def test_keras_file_round_trips(self, trained, tmp_path):
        trained.model.save(tmp_path / "model.keras")
        self.assert_restored(keras.models.load_model(tmp_path / "model.keras"), trained)

    def test_fused_is_the_same_without_batch_norm(self, trained):
        assert batch_norms(trained.model)
        fused = dmformer_keras.fuse(trained.model)
        assert not batch_norms(fused)
        assert_same(fused, trained.model, trained.images, atol=1e-4)

    def test_segments_images_of_its_size_and_larger(self, trained):
        for image in trained.images:
            expected = predict(trained.model, image[None])[0].argmax(axis=-1)
            assert (segment_image(trained.model, image) == expected).mean() > 0.999
        wide = np.concatenate(list(trained.images[:2]), axis=1)[:60]
        truth = np.concatenate(list(trained.masks[:2]), axis=1)[:60]
        mask = segment_image(trained.model, wide)
        assert mask.shape == truth.shape
        assert (mask == truth)[truth != 255].mean() > 0.8
