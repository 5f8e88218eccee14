import unicodedata

import numpy as np
import pytest

from dmformer_keras.data import open_source
from dmformer_keras.data.splits import carve
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent


def drawn(names, labels, fraction=0.1, seed=0):
    """The names that are for validation."""
    indexes = carve("cats", "val", labels, fraction, seed, names)
    train = carve("cats", "train", labels, fraction, seed, names)
    assert sorted([*indexes, *train]) == list(range(len(names)))
    return {names[index] for index in indexes}


def photos(count):
    names = [f"{label}/{number}.jpg" for label in "abc" for number in range(count)]
    return names, [ord(name[0]) - ord("a") for name in names]


def test_files_that_come_or_go_move_no_other():
    names, labels = photos(300)
    val = drawn(names, labels)
    assert 0.06 < len(val) / len(names) < 0.14
    random = np.random.default_rng(0)
    for _ in range(20):
        kept = np.sort(random.permutation(len(names))[: random.integers(200, 900)])
        fewer = drawn([names[i] for i in kept], [labels[i] for i in kept])
        assert fewer == val & {names[i] for i in kept}


def test_each_class_has_images_of_both_parts():
    for count in (2, 3, 5):
        names, labels = photos(count)
        for fraction in (0.01, 0.5, 0.99):
            val = drawn(names, labels, fraction)
            for label in "abc":
                assert 0 < sum(name.startswith(label) for name in val) < count
    assert carve("cats", "train", [0], 0.5, 0, ["a/1"]).tolist() == [0]


def test_the_draw_follows_name_and_seed():
    names, labels = photos(100)
    assert drawn(names, labels) != drawn(names, labels, seed=1)
    assert len({frozenset(drawn(names, labels, seed=seed)) for seed in range(5)}) == 5
    decomposed = [unicodedata.normalize("NFD", f"{name}\u00e9") for name in names]
    composed = [unicodedata.normalize("NFC", name) for name in decomposed]
    assert {unicodedata.normalize("NFC", name) for name in drawn(decomposed, labels)} == drawn(
        composed, labels
    )
    assert drawn(["a/\udcff.jpg", "a/b.jpg"], [0, 0], 0.5)


def test_runs_of_the_early_draw_keep_it(make_folder):
    files = {f"{name}/{number}.png": number for name in ("cat", "dog") for number in range(20)}
    root = make_folder(files)

    def val(**options):
        source = open_source(root, "val", **options)
        return [source.name(index) for index in range(len(source))]

    # As the first versions drew.
    expected = []
    for label, name in enumerate(("cat", "dog")):
        paths = sorted(path for path in files if path.startswith(name))
        order = np.random.default_rng([0, label]).permutation(20)[:2]
        expected += sorted(paths[index] for index in order)
    assert val(draw="position") == expected
    assert val() != expected
    with pytest.raises(DMFormerError, match="draw must be one of name, position"):
        val(draw="random")
