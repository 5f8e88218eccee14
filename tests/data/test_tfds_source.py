import keras
import numpy as np
import pytest

from dmformer_keras.data import Augmentation, open_source, tfds_source, to_py_dataset, to_tf_dataset
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import Recipe
from dmformer_keras.training.batches import statistics_batches

pytestmark = pytest.mark.backend_independent

tfds = pytest.importorskip("tensorflow_datasets")


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Thirty images whose value is their number, of two classes."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "kind": tfds.features.ClassLabel(names=["even", "odd"]),
                }
            ),
            supervised_keys=("picture", "kind"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(30)), "test": self._generate_examples([3])}

    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, {"picture": np.full((9, 7, 3), number, np.uint8), "kind": number % 2}


def tiny_mask(number):
    return np.random.default_rng(number).choice([1, 2, 3], (9, 7)).astype(np.uint8)


class TinyMasks(tfds.core.GeneratorBasedBuilder):
    """Twenty photos of one number with masks of 1 to 3, by the names of oxford_iiit_pet."""

    VERSION = tfds.core.Version("1.0.0")
    MASK = ("segmentation_mask", tfds.features.Image(shape=(None, None, 1)))

    def _info(self):
        picture = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        features = {
            "image": picture,
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
            "depth": tfds.features.Image(shape=(None, None, 1)),
            self.MASK[0]: self.MASK[1],
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(20)), "test": self._generate_examples([3])}

    def _generate_examples(self, numbers):
        for number in numbers:
            yield (
                number,
                {
                    "image": np.full((9, 7, 3), number, np.uint8),
                    "label": number % 2,
                    "depth": np.zeros((9, 7, 1), np.uint8),
                    self.MASK[0]: tiny_mask(number)[..., None],
                },
            )


class TinyNamedMasks(TinyMasks):
    """The same, the labels having names."""

    VERSION = tfds.core.Version("1.0.0")
    MASK = ("label_image", tfds.features.LabeledImage(labels=["void", "cat", "dog", "sky"]))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyShapes, TinyMasks, TinyNamedMasks):
        builder(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(autouse=True)
def _environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def values(dataset, count=None):
    found = []
    for images, labels in dataset if count is None else dataset.take(count):
        images, labels = np.asarray(images), np.asarray(labels)
        np.testing.assert_array_equal(images[:, 0, 0, 0] % 2, labels)
        found += images[:, 0, 0, 0].astype(int).tolist()
    return found


def test_a_prepared_dataset_is_read(data_dir):
    source = open_source("tfds:tiny_shapes", "test")
    assert source.class_names == ["even", "odd"]
    image, label = source.read(0)
    np.testing.assert_array_equal(image, np.full((9, 7, 3), 3))
    assert label == 1
    assert source.name(0) == "tfds:tiny_shapes/test[0]"
    train, val = (open_source("tfds:tiny_shapes:1.2.0", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (26, 4)
    assert np.bincount(val.labels).tolist() == [2, 2]
    found = [values(to_py_dataset(source, 8, 4)) for source in (train, val)]
    assert sorted(found[0] + found[1]) == list(range(30))


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("tfds:no_such_data", "train", "no_such_data"),
        ("tfds:tiny_shapes:9.9.9", "train", "version"),
        ("tfds:tiny_shapes", "all", "train, val, test"),
        ("tfds:mnist", "train", "tfds build mnist"),
    ],
)
def test_what_cannot_be_opened(name, split, message):
    with pytest.raises(DMFormerError, match=message):
        open_source(name, split)


def test_a_large_split_is_streamed(monkeypatch):
    monkeypatch.setattr(tfds_source, "MEMORY_LIMIT", 10)
    train, val = (open_source("tfds:tiny_shapes", split) for split in ("train", "val"))
    assert train.labels is None
    assert (len(train), len(val)) == (27, 3)
    evaluation = [values(to_tf_dataset(source, 8, 4)) for source in (train, val)]
    assert sorted(evaluation[0] + evaluation[1]) == list(range(30))

    def stream(**options):
        return to_tf_dataset(train, 8, 9, training=True, **options)

    first, second = (values(stream(first_epoch=epoch), 3) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(evaluation[0])
    assert first != second
    assert values(stream(seed=1), 3) != first
    for global_seed in (0, 7):
        keras.utils.set_random_seed(global_seed)
        assert values(stream(), 6) == first + second
    assert values(stream(epochs=2)) == first + second
    light = Augmentation.named("light")
    pairs = [next(iter(stream(augmentation=light))) for _ in range(2)]
    np.testing.assert_array_equal(*(np.asarray(images) for images, _ in pairs))


def test_a_stream_gives_images_to_estimate_statistics_from(monkeypatch):
    monkeypatch.setattr(tfds_source, "MEMORY_LIMIT", 10)
    train = open_source("tfds:tiny_shapes", "train")
    assert train.labels is None
    batches = list(statistics_batches(train, Recipe(batch_size=10), (8, 8), epoch=1))
    assert [batch.shape for batch in batches] == [(10, 8, 8, 3)] * 2
    assert isinstance(batches[0], np.ndarray)


def test_what_a_stream_cannot_do(monkeypatch):
    monkeypatch.setattr(tfds_source, "MEMORY_LIMIT", 10)
    with pytest.raises(DMFormerError, match="streamed"):
        open_source("tfds:tiny_shapes", on_corrupt="skip")
    source = open_source("tfds:tiny_shapes")
    with pytest.raises(DMFormerError, match="to_tf_dataset"):
        source.read(0)
    with pytest.raises(DMFormerError, match="to_tf_dataset"):
        to_py_dataset(source, 8, 4)
    assert "27 images" in source.describe()


def test_masks_are_read_and_numbered():
    source = open_source("tfds:tiny_masks", "test", task="segment")
    assert source.class_names == ["0", "1", "2", "3"]
    image, mask = source.read(0)
    np.testing.assert_array_equal(image, np.full((9, 7, 3), 3))
    np.testing.assert_array_equal(mask, tiny_mask(3))
    pets = open_source("tfds:tiny_masks", "test", task="segment", ignored_labels=[0])
    assert pets.class_names == ["1", "2", "3"]
    np.testing.assert_array_equal(pets.read(0)[1], tiny_mask(3) - 1)
    train, val = (open_source("tfds:tiny_masks", part, task="segment") for part in ("train", "val"))
    assert (len(train), len(val)) == (18, 2)
    numbers = []
    for source in (train, val):
        for index in range(len(source)):
            image, mask = source.read(index)
            np.testing.assert_array_equal(mask, tiny_mask(image[0, 0, 0]))
            numbers.append(image[0, 0, 0])
    assert sorted(numbers) == list(range(20))


def test_labels_of_masks_may_have_names():
    source = open_source("tfds:tiny_named_masks", "test", task="segment")
    assert source.class_names == ["cat", "dog", "sky"]
    np.testing.assert_array_equal(source.read(0)[1], tiny_mask(3) - 1)


def test_what_cannot_be_opened_for_segmentation(monkeypatch):
    with pytest.raises(DMFormerError, match=r"no dataset for segmentation.*picture, kind"):
        open_source("tfds:tiny_shapes", task="segment")
    with pytest.raises(DMFormerError, match="task='segment'"):
        open_source("tfds:tiny_masks")
    monkeypatch.setattr(tfds_source, "MEMORY_LIMIT", 10)
    with pytest.raises(DMFormerError, match="not streamed; write them to a folder"):
        open_source("tfds:tiny_masks", task="segment")
