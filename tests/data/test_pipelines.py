import numpy as np
import pytest
from image_files import encode, random_image, two_classes

from dmformer_keras.data import (
    IGNORED_LABEL,
    Augmentation,
    JointAugmentation,
    Mixing,
    load_example,
    open_source,
    steps_per_epoch,
    to_py_dataset,
    to_tf_dataset,
)
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent  # `test_py_dataset.py` has what Keras does with them

STANDARD = Augmentation.named("standard")


def batches(dataset, count=None):
    """The first `count` batches, or all, of either kind of dataset as numpy."""
    taken = []
    for images, labels in dataset:
        taken.append((np.asarray(images), np.asarray(labels)))
        if len(taken) == count:
            break
    return taken


def assert_same(first, second):
    assert len(first) == len(second)
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def training(make, source, **options):
    options = {"training": True, "augmentation": STANDARD, "seed": 5} | options
    return make(source, (16, 24), 4, **options)


def test_tf_data_and_py_dataset_give_the_same_on_any_number_of_threads(source):
    expected = batches(training(to_tf_dataset, source, num_parallel_calls=1), 12)
    assert expected[0][0].shape == (4, 16, 24, 3)
    assert expected[0][0].dtype == np.float32
    assert expected[0][1].dtype == np.int32
    assert_same(expected, batches(training(to_tf_dataset, source, num_parallel_calls=5), 12))
    for workers, prefetch in ((1, 0), (4, 3)):
        dataset = training(to_py_dataset, source, workers=workers, prefetch=prefetch)
        assert_same(expected, batches(dataset, 12))


def test_py_dataset_gives_a_batch_by_its_number_in_any_order(source):
    expected = batches(training(to_py_dataset, source), 8)
    dataset = training(to_py_dataset, source)
    assert_same([dataset[step] for step in (7, 0, 3, 3, 1)], [expected[s] for s in (7, 0, 3, 3, 1)])


@pytest.mark.parametrize("make", [to_tf_dataset, to_py_dataset])
def test_resumed_training_goes_on_as_if_never_stopped(source, make):
    steps = steps_per_epoch(source, 4)
    whole = batches(training(make, source), 4 * steps)
    resumed = batches(training(make, source, first_epoch=2), 2 * steps)
    assert_same(whole[2 * steps :], resumed)


@pytest.mark.parametrize("make", [to_tf_dataset, to_py_dataset])
def test_a_stream_may_begin_within_an_epoch(source, make):
    options = {"training": True, "seed": 5, "mixing": Mixing(mixup=0.5), "epochs": 3}
    steps = steps_per_epoch(source, 4)
    whole = to_py_dataset(source, 32, 4, **options)
    first = steps + 1
    part = make(source, 32, 4, **options, first_step=first)
    batches = part.as_numpy_iterator() if make is to_tf_dataset else map(part.__getitem__, range(2))
    for step, batch in zip(range(first, first + 2), batches, strict=False):
        for one, other in zip(batch, whole[step], strict=True):
            np.testing.assert_array_equal(one, other)


def test_epochs_and_seeds_differ_and_an_epoch_repeats_no_image(make_folder):
    source = open_source(
        (np.arange(40, dtype=np.uint8).reshape(40, 1, 1), np.zeros(40, int)), "all"
    )

    def order(epoch, seed):
        dataset = to_py_dataset(source, 2, 4, training=True, seed=seed, first_epoch=epoch)
        return [int(value) for images, _ in batches(dataset, 10) for value in images[:, 0, 0, 0]]

    orders = [order(0, 0), order(1, 0), order(0, 1)]
    for drawn in orders:
        assert sorted(drawn) == list(range(40))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_an_image_changes_otherwise_in_every_epoch_and_for_every_seed(source):
    def example(seed, epoch):
        return load_example(source, 3, (16, 16), STANDARD, seed, epoch)[0]

    np.testing.assert_array_equal(example(1, 2), example(1, 2))
    assert (example(1, 2) != example(1, 3)).any()
    assert (example(1, 2) != example(2, 2)).any()


def test_batches_are_made_of_load_example(source):
    images, labels = batches(to_py_dataset(source, 16, 4), 1)[0]
    for index in range(4):
        image, label = load_example(source, index, (16, 16), None, seed=0, epoch=0)
        np.testing.assert_array_equal(images[index], image)
        assert labels[index] == label


@pytest.mark.parametrize("make", [to_tf_dataset, to_py_dataset])
def test_evaluation_gives_every_image_once_in_order(source, make):
    labels = np.concatenate([labels for _, labels in batches(make(source, 16, 4))])
    np.testing.assert_array_equal(labels, source.labels)


def test_shapes_and_cardinality(source):
    import tensorflow as tf

    evaluation = to_tf_dataset(source, 16, 4)
    assert evaluation.cardinality() == 6
    assert evaluation.element_spec[0].shape == (None, 16, 16, 3)
    assert to_tf_dataset(source, 16, 11).element_spec[0].shape == (11, 16, 16, 3)
    endless = training(to_tf_dataset, source)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    assert endless.element_spec[0].shape == (4, 16, 24, 3)
    assert endless.element_spec[1].shape == (4,)
    assert training(to_tf_dataset, source, epochs=3).cardinality() == 15
    assert training(to_py_dataset, source).num_batches is None
    assert training(to_py_dataset, source, epochs=3).num_batches == 15
    assert len(batches(training(to_tf_dataset, source, epochs=3))) == 15


def test_a_source_smaller_than_a_batch_is_one_batch(source):
    dataset = to_py_dataset(source, 16, 64, training=True, epochs=2)
    assert [len(labels) for _, labels in batches(dataset)] == [22, 22]
    assert steps_per_epoch(source, 64) == 1


def test_geometry_is_passed_on(source):
    crop = batches(to_tf_dataset(source, 16, 4), 1)[0][0]
    pad = batches(to_tf_dataset(source, 16, 4, resize="pad"), 1)[0][0]
    assert crop[0, 0].max() > 0
    assert pad[0, 0].max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"first_epoch": 1.5}, "first_epoch"),
        ({"epochs": 0}, "epochs"),
        ({"augmentation": "standard"}, "Augmentation.named"),
        ({"resize": "stretch"}, "resize"),
        ({"training": False}, "for training"),
    ],
)
@pytest.mark.parametrize("make", [to_tf_dataset, to_py_dataset])
def test_wrong_options(source, make, options, message):
    with pytest.raises(DMFormerError, match=message):
        training(make, source, **options)


def test_wrong_batch_size_and_source(source):
    with pytest.raises(DMFormerError, match="batch_size"):
        to_py_dataset(source, 16, 0)
    with pytest.raises(DMFormerError, match="open_source"):
        to_py_dataset("folder", 16, 4)


def training_masks(make, source, **options):
    augmentation = JointAugmentation.named("standard")
    return training(make, source, augmentation=augmentation, **options)


def test_masks_are_the_same_by_either_way_and_on_any_number_of_threads(masked):
    expected = batches(training_masks(to_tf_dataset, masked, num_parallel_calls=1), 9)
    assert expected[0][0].shape == (4, 16, 24, 3)
    assert expected[0][1].shape == (4, 16, 24)
    assert expected[0][0].dtype == np.float32
    assert expected[0][1].dtype == np.int32
    assert_same(expected, batches(training_masks(to_tf_dataset, masked, num_parallel_calls=5), 9))
    assert_same(expected, batches(training_masks(to_py_dataset, masked, workers=3), 9))
    for make in (to_tf_dataset, to_py_dataset):
        steps = steps_per_epoch(masked, 4)
        resumed = batches(training_masks(make, masked, first_epoch=2), 9 - 2 * steps)
        assert_same(expected[2 * steps :], resumed)


def test_masks_change_together_with_their_images(masked):
    augmentation = JointAugmentation(scale=(1, 1), horizontal_flip=True)
    for images, masks in batches(training(to_py_dataset, masked, augmentation=augmentation), 5):
        inside = masks != IGNORED_LABEL
        np.testing.assert_array_equal(images[inside][:, 0], 40 * masks[inside])
        assert inside.any()
    first, second = (
        load_example(masked, 3, (16, 16), augmentation, 0, epoch)[1] for epoch in (0, 1)
    )
    assert (first != second).any()


@pytest.mark.parametrize("make", [to_tf_dataset, to_py_dataset])
@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_evaluation_gives_every_mask_once_by_the_geometry_of_its_image(make, resize):
    columns = np.tile(np.arange(1, 101), (60, 1))
    image = np.repeat(columns[..., None] * 2, 3, -1).astype(np.uint8)
    names = [str(number) for number in range(101)]
    source = open_source(([image] * 5, [columns] * 5, names), "all", task="segment")
    evaluation = batches(make(source, (48, 90), 2, resize=resize))
    assert [len(images) for images, _ in evaluation] == [2, 2, 1]
    for images, masks in evaluation:
        inside = masks != IGNORED_LABEL
        assert inside.all() == (resize != "pad")
        np.testing.assert_array_equal(images[..., 0] > 0, inside)
        assert np.abs(images[inside][:, 0] / 2 - masks[inside]).max() <= 1


@pytest.mark.parametrize("make", [to_tf_dataset, to_py_dataset])
def test_each_kind_of_source_has_its_augmentation(source, masked, make):
    with pytest.raises(DMFormerError, match=r"JointAugmentation\.named"):
        training(make, masked)
    with pytest.raises(DMFormerError, match=r"of type Augmentation"):
        training_masks(make, source)


def test_a_corrupt_image_in_training_names_itself(make_folder):
    good = encode(random_image(0, 64, 64), "JPEG")
    root = make_folder(two_classes(2) | {"cat/bad.jpg": good[:-300]})
    source = open_source(root, "all", verify=False)
    with pytest.raises(DMFormerError, match=r"cat/bad\.jpg"):
        batches(to_py_dataset(source, 8, 2))
    with pytest.raises(Exception, match=r"cat/bad\.jpg"):
        batches(to_tf_dataset(source, 8, 2))


@pytest.mark.parametrize("make", [to_tf_dataset, to_py_dataset])
def test_shards_are_the_parts_of_a_batch(make):
    source = open_source("digits", "val")
    settings = {"training": True, "augmentation": Augmentation.named("light"), "seed": 4}

    def first_batches(**more):
        batches = make(source, 32, 60, **settings, **more)
        # Past the end of an epoch of 120 of the 179 images.
        if make is to_tf_dataset:
            return list(batches.take(3).as_numpy_iterator())
        return [batches[step] for step in range(3)]

    whole = first_batches()
    parts = [first_batches(shard=(index, 3)) for index in range(3)]
    for step in range(3):
        for kind in range(2):
            joined = np.concatenate([part[step][kind] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][kind])


def test_shards_are_mixed_each_in_its_own_way():
    source = open_source("digits", "val")
    mixed = [
        to_py_dataset(source, 32, 60, training=True, mixing=Mixing(mixup=1.0), shard=(index, 2))[0]
        for index in range(2)
    ]
    # The batch's larger share, but for images mixed with others of their class.
    shares = [np.median(labels.max(axis=1)) for _, labels in mixed]
    assert shares[0] != shares[1]


def test_a_batch_that_cannot_be_shared_is_refused():
    source = open_source("digits", "val")
    with pytest.raises(DMFormerError, match="Batches of 64 images cannot be shared evenly by 3"):
        to_py_dataset(source, 32, 64, training=True, shard=(0, 3))
    with pytest.raises(DMFormerError, match="shard is for training"):
        to_py_dataset(source, 32, 64, shard=(0, 2))
