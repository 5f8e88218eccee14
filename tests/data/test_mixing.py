import numpy as np
import pytest

from dmformer_keras.data import Mixing, open_source, to_py_dataset, to_tf_dataset
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent

CLASSES = 3


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 16, 24, 3), "uint8"), np.array([0, 1, 2, 2, 0, 1])


def generator(seed=0):
    return np.random.default_rng(seed)


def test_mixup_adds_images_and_classes_in_the_same_shares(batch):
    images, labels = batch
    mixed, shares = Mixing(mixup=0.8).apply(images, labels, CLASSES, generator())
    own = shares[0, 0]  # the first image is of class 0, its other of class 1
    assert 0 < own < 1
    expected = own * images.astype("float64") + (1 - own) * images[::-1]
    np.testing.assert_allclose(mixed, expected, atol=1e-3)
    one_hot = np.eye(CLASSES)[labels]
    np.testing.assert_allclose(shares, own * one_hot + (1 - own) * one_hot[::-1], atol=1e-6)


def test_cutmix_puts_a_box_of_the_other_in_and_counts_its_pixels(batch):
    images, labels = batch
    for seed in range(20):
        mixed, shares = Mixing(cutmix=1.0).apply(images, labels, CLASSES, generator(seed))
        other = (mixed == images[::-1]).all(axis=(0, 3))
        own = (mixed == images).all(axis=(0, 3))
        assert (own | other).all()
        rows, columns = np.nonzero(other.any(axis=1))[0], np.nonzero(other.any(axis=0))[0]
        if rows.size:  # a box
            assert other[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert shares[0, 0] == pytest.approx(1 - other.mean(), abs=1e-6)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_both_have_an_even_chance(batch):
    images, labels = batch
    mixing = Mixing(mixup=0.8, cutmix=1.0)
    cut = [
        not np.modf(mixing.apply(images, labels, CLASSES, generator(seed))[0])[0].any()
        for seed in range(200)
    ]
    assert 70 < sum(cut) < 130


def test_the_shares_follow_the_beta_distribution(batch):
    images, labels = batch
    own = [
        Mixing(mixup=0.5).apply(images[:, :1, :1], labels, CLASSES, generator(seed))[1][0, 0]
        for seed in range(2000)
    ]
    assert np.mean(own) == pytest.approx(0.5, abs=0.03)
    assert np.var(own) == pytest.approx(1 / (4 * (2 * 0.5 + 1)), abs=0.01)


def test_without_either_nothing_changes(batch):
    images, labels = batch
    mixed, shares = Mixing().apply(images, labels, CLASSES, generator())
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(shares, np.eye(CLASSES)[labels])


def test_both_pipelines_give_the_same_mixtures_of_the_same_batches():
    pytest.importorskip("tensorflow")
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), "uint8")
    source = open_source((images, np.arange(10) % 3), "all")
    options = {"training": True, "seed": 4, "mixing": Mixing(mixup=0.4, cutmix=0.7)}

    def taken(make, count=7, **more):
        dataset = iter(make(source, 32, 4, **options, **more))
        return [[np.asarray(part) for part in next(dataset)] for _ in range(count)]

    expected = taken(to_tf_dataset)
    assert expected[0][0].dtype == expected[0][1].dtype == np.float32
    assert expected[0][1].shape == (4, 3)
    assert any((shares < 0.999).all(axis=1).any() for _, shares in expected)
    for found in (taken(to_py_dataset), taken(to_tf_dataset, num_parallel_calls=3)):
        for one, other in zip(found, expected, strict=True):
            for part, other_part in zip(one, other, strict=True):
                np.testing.assert_array_equal(part, other_part)
    # Epochs of two batches: resumed after the first, the third batch is the first.
    for part, other in zip(taken(to_tf_dataset, 1, first_epoch=1)[0], expected[2], strict=True):
        np.testing.assert_array_equal(part, other)


def test_what_cannot_be_mixed_is_refused():
    for wrong in ({"mixup": -1}, {"cutmix": "much"}, {"mixup": float("inf")}):
        with pytest.raises(DMFormerError, match=next(iter(wrong))):
            Mixing(**wrong)
    source = open_source("digits", "val", channels=1)
    with pytest.raises(DMFormerError, match="mixing is for training"):
        to_py_dataset(source, 32, 4, mixing=Mixing(mixup=1.0))
    with pytest.raises(DMFormerError, match="of type Mixing"):
        to_py_dataset(source, 32, 4, training=True, mixing=0.8)
