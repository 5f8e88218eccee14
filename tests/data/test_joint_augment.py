import numpy as np
import pytest

from dmformer_keras.data import IGNORED_LABEL, JointAugmentation, resize_image
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent


def apply(augmentation, image, mask, size=(40, 50), seed=0, **options):
    return augmentation.apply(image, mask, size, np.random.default_rng(seed), **options)


def coordinates(height=90, width=110):
    """Masks of the row and the column of every pixel, and an image that holds twice these."""
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1].astype(np.uint8)
    return rows, columns, np.stack([2 * rows, 2 * columns, np.full_like(rows, 255)], axis=-1)


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.3, 0.9), (1, 1), (1.1, 2), (3, 3)])
@pytest.mark.parametrize("resize", ["crop", "squash", "pad", None])
def test_the_mask_lies_on_the_image_to_half_a_pixel(scale, resize):
    rows, columns, image = coordinates()
    if resize is None:
        augmentation = JointAugmentation(scale=scale, horizontal_flip=True)
    else:
        augmentation = JointAugmentation(horizontal_flip=True)
    for seed in range(4):
        for channel, mask in enumerate((rows, columns)):
            options = {} if resize is None else {"resize": resize}
            changed, labels = apply(augmentation, image, mask, seed=seed, **options)
            inside = labels != IGNORED_LABEL
            np.testing.assert_array_equal(changed[..., 2] > 0, inside)
            off = changed[..., channel][inside] / 2 - labels[inside]
            assert np.abs(off).max() <= 0.51


def test_scale_is_the_size_of_things_and_the_part_lies_anywhere():
    _, columns, image = coordinates(90, 200)
    firsts = []
    for seed in range(20):
        _, labels = apply(JointAugmentation(scale=(2, 2)), image, columns, (40, 50), seed)
        assert abs(int(labels[0, -1]) - int(labels[0, 0]) - 24.5) <= 1
        firsts.append(int(labels[0, 0]))
    assert min(firsts) < 40
    assert max(firsts) > 130


def test_a_small_image_is_padded_at_any_side_with_black_and_ignored():
    image, mask = np.full((20, 20, 3), 90, np.uint8), np.full((20, 20), 4, np.uint8)
    augmentation = JointAugmentation(scale=(0.5, 0.5), brightness=0.5, horizontal_flip=True)
    corners = set()
    for seed in range(20):
        changed, labels = apply(augmentation, image, mask, (16, 30), seed)
        assert (labels == 4).sum() == 100
        np.testing.assert_array_equal(changed[..., 0] > 0, labels == 4)
        assert set(np.unique(labels)) == {4, IGNORED_LABEL}
        corners.add(tuple(np.argwhere(labels == 4)[0]))
    assert len(corners) > 10


def test_colors_change_the_image_only_and_no_label_is_made_up():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 70, 3), np.uint8)
    mask = rng.choice([0, 3, 200, IGNORED_LABEL], (60, 70)).astype(np.uint8)
    colors = JointAugmentation(brightness=0.3, contrast=0.3, saturation=0.3)
    changed, labels = apply(colors, image, mask, (60, 70))
    np.testing.assert_array_equal(labels, mask)
    assert (changed != image).any()
    for seed in range(5):
        _, labels = apply(JointAugmentation.named("standard"), image, mask, seed=seed)
        assert set(np.unique(labels)) <= {0, 3, 200, IGNORED_LABEL}


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_same_generator_same_result(channels):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (50, 60, channels), np.uint8)
    mask = rng.integers(0, 5, (50, 60)).astype(np.uint8)
    for name in ("light", "standard"):
        first, again, other = (
            apply(JointAugmentation.named(name), image, mask, seed=seed) for seed in (3, 3, 4)
        )
        assert first[0].shape == (40, 50, channels)
        assert first[1].shape == (40, 50)
        for one, two, three in zip(first, again, other, strict=True):
            assert one.dtype == np.uint8
            np.testing.assert_array_equal(one, two)
            assert (one != three).any()


def test_none_is_the_geometry_of_evaluation():
    _, columns, image = coordinates()
    none = JointAugmentation.named("none")
    changed, labels = apply(none, image, columns, (40, 80), resize="pad")
    np.testing.assert_array_equal(changed, resize_image(image, (40, 80), "pad"))
    padded = (labels == IGNORED_LABEL).all(axis=0)
    assert padded.tolist() == [True] * 15 + [False] * 49 + [True] * 16


def test_light_never_mirrors_and_standard_does():
    _, columns, image = coordinates()

    def mirrored(name, seed):
        row = apply(JointAugmentation.named(name), image, columns, seed=seed)[1]
        row = row[(row != IGNORED_LABEL).any(1)][0].astype(int)
        row = row[row != IGNORED_LABEL]
        return row[0] > row[-1]

    assert not any(mirrored("light", seed) for seed in range(30))
    assert 5 < sum(mirrored("standard", seed) for seed in range(40)) < 35


def test_largest_share_avoids_parts_of_one_class():
    mask = np.zeros((200, 200), np.uint8)
    mask[:, 150:] = 1
    image = np.zeros((200, 200, 3), np.uint8)

    def two_classes(share):
        augmentation = JointAugmentation(scale=(1, 1), largest_share=share)
        parts = [apply(augmentation, image, mask, (60, 60), seed)[1] for seed in range(30)]
        return sum(0.25 <= part.mean() <= 0.75 for part in parts)

    assert two_classes(1.0) < 15
    assert two_classes(0.75) > 25


def test_largest_share_ends_on_masks_that_cannot_satisfy_it():
    image = np.zeros((40, 50, 3), np.uint8)
    for value in (3, IGNORED_LABEL):
        mask = np.full((40, 50), value, np.uint8)
        _, labels = apply(JointAugmentation(scale=(1, 1), largest_share=0.5), image, mask)
        assert (labels == value).all()


def test_shorter_side_makes_images_of_any_size_alike():
    for height, width in ((30, 40), (120, 160)):
        mask = np.tile(np.arange(width)[None] * 40 // width, (height, 1)).astype(np.uint8)
        image = np.zeros((height, width, 3), np.uint8)
        augmentation = JointAugmentation(scale=(1, 1), shorter_side=60)
        _, labels = apply(augmentation, image, mask, (60, 20))
        assert (labels != IGNORED_LABEL).all()
        assert int(labels[0, -1]) - int(labels[0, 0]) in (9, 10)  # a quarter of the width


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0, 1)},
        {"scale": (2, 1)},
        {"scale": 1.0},
        {"shorter_side": 0, "scale": (1, 1)},
        {"shorter_side": 100},
        {"largest_share": 0},
        {"largest_share": 1.5},
        {"brightness": 2},
        {"horizontal_flip": "yes"},
    ],
)
def test_wrong_values_are_named(wrong):
    with pytest.raises(DMFormerError, match=f"JointAugmentation: {next(iter(wrong))}"):
        JointAugmentation(**wrong)


def test_unknown_name_lists_the_known():
    with pytest.raises(DMFormerError, match=r"none, light, standard.*JointAugmentation"):
        JointAugmentation.named("wild")
