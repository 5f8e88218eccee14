"""What the device does to a batch is what the CPU does to each image."""

import keras
import numpy as np
import pytest
from helpers import array
from image_files import random_image

from dmformer_keras.data import (
    Augmentation,
    Mixing,
    device_rand_augment,
    open_source,
    to_py_dataset,
)
from dmformer_keras.data.device_augment import changed
from dmformer_keras.data.rand_augment import OPERATIONS, operated
from dmformer_keras.errors import DMFormerError

SIZE = (24, 32)


def smooth_images(channels, count=8):
    """Images of different sizes without hard edges, where half a pixel is half the range."""
    rng = np.random.default_rng(0)
    return [
        np.repeat(np.repeat(rng.integers(0, 256, (height, width, channels)), 8, 0), 8, 1)
        .astype("uint8")
        for height, width in rng.integers(5, 12, (count, 2))
    ]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", ["none", "light", "standard"])
def test_the_same_changes_as_on_the_cpu(name, channels):
    augmentation, images = Augmentation.named(name), smooth_images(channels)

    def rng(number):
        return np.random.default_rng([1, number])

    expected = np.stack(
        [
            augmentation.apply(image, SIZE, rng(n)).astype("float32")
            for n, image in enumerate(images)
        ]
    )
    drawn = [augmentation.draw(image.shape, SIZE, rng(n)) for n, image in enumerate(images)]
    found = array(changed(images, drawn, SIZE))
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    # The CPU rounds after each of up to four steps.
    np.testing.assert_allclose(found, expected, atol=4)
    assert np.abs(found - expected).mean() < 0.8
    assert expected.std() > 30


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("magnitude", [9, 25])
def test_every_operation_is_that_of_the_cpu(channels, magnitude):
    drawn = [((name, sign),) for name in OPERATIONS for sign in (-1, 1)]
    # Noise, of a narrow range so that autocontrast and equalize have something to do.
    batch = integers(len(drawn), 20, 28, channels) // 2 + 40
    expected = [operated(one, own, magnitude) for one, own in zip(batch, drawn, strict=True)]
    found = array(device_rand_augment.operated(batch.astype("float32"), drawn, magnitude))
    for own, one, other in zip(drawn, found, np.stack(expected).astype("float32"), strict=True):
        # Rounding within a move may differ by a level.
        np.testing.assert_allclose(one, other, atol=1, err_msg=str(own))
        assert (one != other).mean() < 0.05, own


def test_operations_follow_each_other_and_noise_covers_its_box():
    augmentation = Augmentation(rand_augment=(3, 12), erasing=0.7)
    batch, size = list(integers(32, 24, 32, 3)), (24, 32)

    def rng(number):
        return np.random.default_rng([5, number])

    expected = np.stack([augmentation.apply(one, size, rng(n)) for n, one in enumerate(batch)])
    drawn = [augmentation.draw(one.shape, size, rng(n)) for n, one in enumerate(batch)]
    found = array(changed(batch, drawn, size, magnitude=12))
    assert sum(one.noise is not None for one in drawn) > 10
    # A level of difference may become many where an operation counts or cuts values.
    assert (np.abs(found - expected) > 1).mean() < 0.03


def test_batches_have_the_magnitude_of_their_augmentation():
    images = smooth_images(3, 10)
    source = open_source((images, np.arange(10) % 3), "all")
    options = {"training": True, "augmentation": Augmentation.named("imagenet")}
    expected = to_py_dataset(source, SIZE, 10, **options)[0][0]
    found = array(to_py_dataset(source, SIZE, 10, **options, on_device=True)[0][0])
    assert (np.abs(found - expected) > 4).mean() < 0.05


@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.5), Mixing(cutmix=1.0)])
def test_batches_are_those_of_the_cpu_in_their_order(mixing):
    images = smooth_images(3, 10)
    source = open_source((images, np.arange(10) % 3), "all")
    options = {
        "training": True, "seed": 4, "mixing": mixing, "first_epoch": 2,
        "augmentation": Augmentation.named("standard"),
    }  # fmt: skip
    expected = to_py_dataset(source, SIZE, 4, **options)
    found = to_py_dataset(source, SIZE, 4, **options, on_device=True)
    for step in range(5):
        for one, other in zip(found[step], expected[step], strict=True):
            np.testing.assert_allclose(array(one), other, atol=4)
        assert keras.ops.is_tensor(found[step][0])


def test_what_a_device_cannot_do_is_refused():
    source = open_source(([random_image(0)] * 4, [0, 1, 0, 1]), "all")
    with pytest.raises(DMFormerError, match="for training"):
        to_py_dataset(source, 32, 2, on_device=True)
    with pytest.raises(DMFormerError, match="resize"):
        to_py_dataset(source, 32, 2, training=True, on_device=True, resize="squash")
    degraded = Augmentation.named("degraded")
    with pytest.raises(DMFormerError, match="degradation"):
        to_py_dataset(source, 32, 2, training=True, on_device=True, augmentation=degraded)
