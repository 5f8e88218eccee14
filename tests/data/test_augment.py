import dataclasses

import numpy as np
import pytest
from image_files import random_image

from dmformer_keras.data import Augmentation, resize_image
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent


def apply(augmentation, image, size=(32, 32), seed=0):
    return augmentation.apply(image, size, np.random.default_rng(seed))


def test_none_is_the_geometry_of_evaluation():
    image = random_image(0)
    expected = resize_image(image, 32)
    np.testing.assert_array_equal(apply(Augmentation.named("none"), image), expected)


@pytest.mark.parametrize("name", ["light", "standard"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_same_generator_same_image(name, channels):
    image = np.random.default_rng(1).integers(0, 256, (40, 50, channels), np.uint8)
    augmentation = Augmentation.named(name)
    first, again, other = (apply(augmentation, image, (24, 32), seed) for seed in (0, 0, 1))
    assert first.shape == (24, 32, channels)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_light_never_mirrors_and_standard_does():
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], (48, 1, 3))

    def rises(name, seed):
        image = apply(Augmentation.named(name), ramp, seed=seed).astype(int)
        return image[:, -4:].mean() > image[:, :4].mean()

    assert all(rises("light", seed) for seed in range(30))
    assert 5 < sum(rises("standard", seed) for seed in range(40)) < 35


def test_flip_is_an_exact_mirror():
    image = random_image(2, 32, 32)
    results = [apply(Augmentation(horizontal_flip=True), image, seed=seed) for seed in range(20)]
    mirrored = [np.array_equal(result, image[:, ::-1]) for result in results]
    same = [np.array_equal(result, image) for result in results]
    assert any(mirrored)
    assert any(same)
    assert all(a or b for a, b in zip(mirrored, same, strict=True))


def test_crop_takes_the_share_of_the_area_it_is_told():
    x = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 1))
    augmentation = Augmentation(crop_scale=(0.25, 0.25))
    for seed in range(5):
        row = apply(augmentation, x, (50, 50), seed)[25, :, 0].astype(int)
        assert abs((row[-1] - row[0]) - 98) <= 2  # a quarter of the area, half the width


def test_crop_ratio_is_relative_to_the_target():
    x = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 1))
    augmentation = Augmentation(crop_scale=(0.125, 0.125))
    row = apply(augmentation, x, (50, 100))[25, :, 0].astype(int)
    assert abs((row[-1] - row[0]) - 99) <= 2  # twice as wide as high: 100 x 50 of 200 x 200


def test_shift_repeats_the_edge_and_moves_the_middle():
    image = np.full((32, 32, 1), 90, np.uint8)
    image[12:20, 12:20] = 255
    centers = []
    for seed in range(10):
        moved = apply(Augmentation(translate=0.2), image, seed=seed)[..., 0].astype(int)
        assert moved.min() == 90
        centers.append(np.argwhere(moved > 200).mean(axis=0))
    assert np.ptp(centers, axis=0).min() > 4


def test_rotation_turns_about_the_middle():
    image = np.zeros((41, 41, 1), np.uint8)
    image[20, 20] = 255
    turned = apply(Augmentation(rotate=45), image, (41, 41))
    assert np.argmax(turned) == 20 * 41 + 20
    bar = np.zeros((41, 41, 1), np.uint8)
    bar[20, 5:36] = 255
    assert (apply(Augmentation(rotate=45), bar, (41, 41))[20, 5:36] < 200).sum() > 15


def test_brightness_multiplies_for_rgb_and_others_alike():
    for channels in (1, 3, 4):
        image = np.full((32, 32, channels), 100, np.uint8)
        values = {
            int(apply(Augmentation(brightness=0.5), image, seed=s)[0, 0, 0]) for s in range(9)
        }
        assert 50 <= min(values) < 85
        assert 115 < max(values) <= 150


def test_contrast_keeps_the_mean_and_saturation_the_luminance():
    image = random_image(5, 32, 32) // 2 + 64
    contrasted = apply(Augmentation(contrast=0.5), image)
    assert abs(contrasted.mean() - image.mean()) < 1
    assert abs(contrasted.std() - image.std()) > 1
    weights = np.array([0.299, 0.587, 0.114])
    saturated = apply(Augmentation(saturation=0.5), image)
    assert np.abs(saturated @ weights - image @ weights).max() < 2
    assert (saturated != image).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_scale": (0, 1)},
        {"crop_scale": (0.5, 1.2)},
        {"crop_scale": 0.5},
        {"crop_ratio": (2, 1)},
        {"brightness": -0.1},
        {"contrast": 2},
        {"saturation": "much"},
        {"translate": 1.0},
        {"zoom": float("nan")},
        {"rotate": 500},
        {"horizontal_flip": "yes"},
    ],
)
def test_wrong_values_are_named(wrong):
    with pytest.raises(DMFormerError, match=next(iter(wrong))):
        Augmentation(**wrong)


def test_unknown_name_lists_the_known():
    with pytest.raises(DMFormerError, match="none, light, standard"):
        Augmentation.named("wild")


def detail(image):
    """Mean squared difference of neighboring pixels."""
    return np.square(np.diff(image.astype(float), axis=1)).mean()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_degraded_images_of_a_sharp_and_of_a_blurred_source_look_alike(channels):
    sharp = np.random.default_rng(3).integers(0, 256, (128, 96, channels), np.uint8)
    blurred = resize_image(resize_image(sharp, (48, 36)), (128, 96))
    augmentation = Augmentation(degradation=(12, 18))
    before = detail(sharp) / detail(blurred)
    first, second = (
        np.mean([detail(apply(augmentation, image, (128, 96), seed)) for seed in range(20)])
        for image in (sharp, blurred)
    )
    assert before > 10
    assert first / second < 2


def test_degradation_shrinks_and_compresses_but_keeps_what_is_seen():
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], (48, 1, 3))
    augmentation = Augmentation(degradation=(12, 12))
    degraded = apply(augmentation, ramp, (48, 48)).astype(int)
    assert np.abs(degraded - ramp).max() < 25
    assert np.abs(degraded - ramp).mean() < 8
    assert (degraded != apply(augmentation, ramp, (48, 48), seed=5)).any()


def test_images_that_are_smaller_are_compressed_only():
    image = random_image(4, 32, 32)
    larger = apply(Augmentation(degradation=(64, 64)), image)
    same = apply(Augmentation(degradation=(32, 32)), image)
    np.testing.assert_array_equal(larger, same)
    assert (larger != image).any()


@pytest.mark.parametrize("sides", [(0, 4), (64, 24), (24.5, 64), 24, "small", (24, 48, 64)])
def test_degradation_is_a_range_of_sides(sides):
    with pytest.raises(DMFormerError, match="degradation must be"):
        Augmentation(degradation=sides)


def test_degraded_is_standard_and_degradation():
    image = random_image(5, 90, 90)
    standard, degraded = (
        Augmentation.named(name).draw(image.shape, (64, 64), np.random.default_rng(0))
        for name in ("standard", "degraded")
    )
    assert dataclasses.replace(degraded, degradation=None) == standard
    assert 24 <= degraded.degradation[0] <= 64
