import numpy as np
import pytest

from dmformer_keras.data import Augmentation, resize_image
from dmformer_keras.data.rand_augment import (
    OPERATIONS,
    STRONGEST,
    draw_noise,
    draw_operations,
    operated,
    with_noise,
)
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent


def picture(channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (24, 32, channels), "uint8")


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_every_operation_takes_every_number_of_channels(channels):
    image = picture(channels)
    for operation in OPERATIONS.values():
        for sign in (-1, 1):
            changed = operation(image, 0.7, sign)
            assert changed.shape == image.shape
            assert changed.dtype == np.uint8


def test_the_operations_differ_and_grow_with_the_magnitude():
    coarse = np.uint8(np.random.default_rng(0).normal(128, 30, (4, 5, 3)))
    image = resize_image(coarse, (24, 32), "squash")
    changes = {
        strength: [
            np.abs(operation(image, strength, 1).astype(int) - image).mean()
            for operation in OPERATIONS.values()
        ]
        for strength in (0.0, 0.3, 0.9)
    }
    # Contrasts of their own have autocontrast and equalize; the rest does nothing at 0.
    at_rest = [change for place, change in enumerate(changes[0.0]) if place not in (1, 2)]
    np.testing.assert_allclose(at_rest, 0, atol=0.02)
    weak, strong = changes[0.3], changes[0.9]
    assert sum(change > 0.5 for change in strong) >= 12
    assert all(low <= high + 1e-9 for low, high in zip(weak, strong, strict=True))


def test_shifts_and_turns_leave_grey_behind():
    image = np.full((20, 20, 3), 250, "uint8")
    shifted = OPERATIONS["translate_x"](image, 1.0, 1)
    assert (shifted[:, -5:] == 128).all()
    assert (shifted[:, :8] == 250).all()
    turned = OPERATIONS["rotate"](image, 1.0, 1)
    assert (turned[0, 0] != 250).any()
    assert (turned[9:11, 9:11] == 250).all()


def test_the_same_generator_gives_the_same_image_and_others_others():
    image = picture()
    one, same, other = (
        operated(image, draw_operations(np.random.default_rng(seed), 2), STRONGEST / 2)
        for seed in (1, 1, 6)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_erasing_leaves_all_but_one_box():
    image = np.zeros((40, 50, 3), "uint8")
    for seed in range(20):
        changed = with_noise(image, draw_noise(image.shape, np.random.default_rng(seed)))
        touched = changed.any(axis=-1)
        rows, columns = np.nonzero(touched.any(axis=1))[0], np.nonzero(touched.any(axis=0))[0]
        box = touched[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 0.015 < box.size / touched.size < 0.36
        assert box.mean() > 0.99
        assert not image.any()


def test_an_augmentation_has_both():
    image = picture()
    for options in ({"rand_augment": (2, 15)}, {"erasing": 1.0}):
        changed = Augmentation(**options).apply(image, (24, 32), np.random.default_rng(3))
        assert changed.shape == image.shape
        assert (changed != image).any()
    for wrong in ({"rand_augment": (0, 9)}, {"rand_augment": (2, 31)}, {"rand_augment": (2.0, 9)}):
        with pytest.raises(DMFormerError, match="rand_augment"):
            Augmentation(**wrong)
    with pytest.raises(DMFormerError, match="erasing"):
        Augmentation(erasing=1.1)
