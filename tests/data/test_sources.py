import multiprocessing
import os
import pickle
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import encode, random_image, two_classes

from dmformer_keras.data import open_source
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def names(source):
    return [source.name(index) for index in range(len(source))]


def test_folder_of_class_folders(make_folder):
    source = open_source(make_folder(two_classes(3)), "all")
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert names(source)[:4] == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png"]
    image, label = source.read(4)
    np.testing.assert_array_equal(image, random_image(101))
    assert label == 1
    assert "images=6" in repr(source)
    assert "1 dog: 3" in source.describe()


def test_zip_equals_folder_and_a_common_top_folder_is_left_out(make_folder, make_zip):
    files = two_classes(3, "train/") | two_classes(2, "val/")
    folder = make_folder(files)
    plain = make_zip(files)
    wrapped = make_zip({f"set/{path}": seed for path, seed in files.items()}, "wrapped.zip")
    sources = [open_source(path, "val") for path in (folder, plain, wrapped)]
    assert names(sources[0]) == names(sources[1]) == names(sources[2])
    for index in range(4):
        for source in sources[1:]:
            np.testing.assert_array_equal(source.read(index)[0], sources[0].read(index)[0])


@pytest.mark.parametrize("folder", ["val", "valid", "validation", "Val"])
def test_val_folder_by_any_of_its_names(make_folder, folder):
    root = make_folder(two_classes(3, "train/") | {f"{folder}/dog/a.png": 7})
    assert names(open_source(root, "val")) == [f"{folder}/dog/a.png"]
    assert open_source(root, "val").labels.tolist() == [1]
    assert len(open_source(root, "train")) == 6


def test_classes_file_gives_order_and_names(make_folder):
    table = b"index\twnid\tname\n0\tdog\tHouse dog\n1\tcat\tTabby cat\n"
    source = open_source(make_folder(two_classes(2) | {"classes.tsv": table}), "all")
    assert source.class_names == ["House dog", "Tabby cat"]
    assert names(source)[0] == "dog/0.png"
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_classes_file_in_any_line_order_and_without_names(make_folder):
    files = two_classes(1) | {"classes.tsv": b"1\tcat\n0\tdog\n"}
    assert open_source(make_folder(files), "all").class_names == ["dog", "cat"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"0\tcat\n", "'dog'.*not in classes.tsv"),
        (b"0\tcat\n1\tdog\n2\tcow\n", "no folder 'cow'"),
        (b"0\tcat\n2\tdog\n", "from 0, each once"),
        (b"0\tcat\n0\tdog\n", "from 0, each once"),
        (b"0\tcat\n1\tcat\n", "each once"),
        (b"", "a line for every class"),
        (b"0\tc\xe4t\n", "UTF-8"),
    ],
)
def test_wrong_classes_files(make_folder, table, message):
    with pytest.raises(DMFormerError, match=message):
        open_source(make_folder(two_classes(1) | {"classes.tsv": table}), "all")


def test_junk_is_passed_over_and_depth_is_free(make_folder):
    files = two_classes(1) | {
        "cat/deep/er/B.JPEG": encode(random_image(0), "JPEG"),
        "cat/.hidden.png": b"x",
        "cat/Thumbs.db": b"x",
        "__MACOSX/cat/._0.png": b"x",
        ".git/config": b"x",
        "README.md": b"read me",
    }
    source = open_source(make_folder(files), "all")
    assert names(source) == ["cat/0.png", "cat/deep/er/B.JPEG", "dog/0.png"]


def test_one_class_may_be_called_train(make_folder):
    root = make_folder({"bus/a.png": 0, "car/a.png": 1, "train/a.png": 2})
    assert open_source(root, "all").class_names == ["bus", "car", "train"]


def test_file_of_unknown_kind(make_folder):
    files = two_classes(2) | {"cat/notes.txt": b"x", "dog/number": b"12", "sheet.png": 1}
    source = open_source(make_folder(files), "all")
    assert len(source) == 4
    assert source.skipped == [
        ("cat/notes.txt", "'cat/notes.txt' is no image by its name."),
        ("dog/number", "'dog/number' is no image by its name."),
        ("sheet.png", "'sheet.png' lies in no class folder."),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.heic", HEIC, r"'cat/a\.heic' is a HEIC image, which is not read; convert it to JPEG"),
        ("a.HEIC", b"x", "is a HEIC image"),
        ("a.avif", b"x", "is an AVIF image"),
        ("a.nef", b"x", "is a raw photograph"),
        ("a", encode(random_image(0), "JPEG"), r"whose name does not say so; call it \.jpg"),
        ("a.image", encode(random_image(0), "WEBP"), r"call it \.webp"),
    ],
)
def test_an_image_by_another_name_is_not_passed_over(make_folder, make_zip, name, content, message):
    files = two_classes(2) | {f"cat/{name}": content}
    for root in (make_folder(files), make_zip(files)):
        with pytest.raises(DMFormerError, match=f"1 image.* of 5 .*{message}"):
            open_source(root, "all")
        source = open_source(root, "all", on_corrupt="skip")
        assert [name for name, _ in source.skipped] == [f"cat/{name}"]
        assert len(source) == 4


def test_a_class_whose_images_are_of_another_format_says_so(make_folder):
    root = make_folder({"cat/a.heic": HEIC, "dog/b.png": 1})
    with pytest.raises(DMFormerError, match=r"'cat' of .* holds no image: 'cat/a\.heic' is a HEIC"):
        open_source(root, "all")


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ({}, "train", "does not exist"),
        ({"a.png": 0}, "train", "no class folders; give .*CLASS/IMAGE"),
        ({"cat/a.png": 0, "dog/.keep": b""}, "all", "'dog'.* holds no image"),
        (two_classes(2, "train/") | {"val/cow/a.png": 0}, "val", "'val/cow'.*training classes"),
        (two_classes(2), "test", "no 'test' split.*train, val, all"),
        (two_classes(2, "train/"), "all", "no 'all' split.*train, val"),
        (two_classes(2, "test/"), "train", "no 'train' split.*test"),
        ({"train/images/a.png": 0, "train/masks/a.png": 0}, "train", "segmentation"),
        (
            two_classes(1, "train/") | two_classes(1, "val/") | two_classes(1, "valid/"),
            "val",
            "two",
        ),
        (two_classes(1), "val", "no image for its 'val' split"),
    ],
)
def test_wrong_layouts(make_folder, files, split, message):
    with pytest.raises(DMFormerError, match=message):
        open_source(make_folder(files), split)


def test_a_file_that_is_no_archive(tmp_path):
    path = tmp_path / "data.rar"
    path.write_bytes(b"Rar!")
    with pytest.raises(DMFormerError, match="neither a folder nor a zip"):
        open_source(path)


@pytest.mark.parametrize(
    "member", ["../cat/a.png", "/cat/a.png", "cat/..\\..\\a.png", "C:\\cat\\a.png", "\\cat\\a.png"]
)
def test_zip_paths_that_lead_outside(make_zip, member):
    with pytest.raises(DMFormerError, match="leads outside"):
        open_source(make_zip(two_classes(1) | {member: 0}), "all")


def test_zip_links_encryption_and_doubles(make_zip, tmp_path):
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = make_zip(two_classes(1))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DMFormerError, match="is a link"):
        open_source(path)

    content = bytearray(make_zip(two_classes(1)).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(content)
    with pytest.raises(DMFormerError, match="encrypted"):
        open_source(tmp_path / "secret.zip")

    path = make_zip(two_classes(1))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("cat/0.png", b"x")
    with pytest.raises(DMFormerError, match="twice"):
        open_source(path)


def test_zip_with_backslashes(make_zip):
    path = make_zip({path.replace("/", "\\"): seed for path, seed in two_classes(1).items()})
    assert names(open_source(path, "all")) == ["cat/0.png", "dog/0.png"]


def test_zip_with_a_damaged_member_is_a_corrupt_image(make_zip):
    path = make_zip(two_classes(2))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 255
    path.write_bytes(content)
    with pytest.raises(DMFormerError, match=r"1 image.*of 4.*cat/0\.png"):
        open_source(path, "all")
    assert len(open_source(path, "all", on_corrupt="skip")) == 3


def damaged():
    good = encode(random_image(0, 64, 64), "JPEG")
    return two_classes(8) | {"cat/bad.jpg": good[:-400], "dog/worse.png": b"no image"}


def test_corrupt_images_stop_before_training_with_one_sentence(make_folder):
    with pytest.raises(DMFormerError, match=r"2 image\(s\) of 18.*cat/bad.jpg.*on_corrupt=.skip"):
        open_source(make_folder(damaged()), "all")


def test_corrupt_images_are_skipped_and_listed(make_folder):
    source = open_source(make_folder(damaged()), "all", on_corrupt="skip")
    assert [name for name, _ in source.skipped] == ["cat/bad.jpg", "dog/worse.png"]
    assert "truncated" in source.skipped[0][1]
    assert len(source) == 16
    assert "cat/bad.jpg" not in names(source)
    assert source.read(8)[1] == 1
    assert "skipped 2" in source.describe()


def test_without_verify_only_headers_are_looked_at(make_folder):
    source = open_source(make_folder(damaged()), "all", on_corrupt="skip", verify=False)
    assert [name for name, _ in source.skipped] == ["dog/worse.png"]
    with pytest.raises(DMFormerError, match=r"cat/bad\.jpg"):
        source.read(names(source).index("cat/bad.jpg"))


def test_a_class_with_only_corrupt_images(make_folder):
    root = make_folder({"cat/a.png": 0, "dog/a.png": b"x"})
    with pytest.raises(DMFormerError, match="no image left in class 'dog'"):
        open_source(root, "all", on_corrupt="skip")


def test_carved_val_is_disjoint_stratified_and_stable(make_folder):
    root = make_folder(two_classes(20))
    options = {"validation_fraction": 0.25, "seed": 3}
    train, val = (open_source(root, split, **options) for split in ("train", "val"))
    assert not set(names(train)) & set(names(val))
    assert len(set(names(train)) | set(names(val))) == 40
    assert all(0 < count < 12 for count in np.bincount(val.labels))
    assert names(val) == names(open_source(root, "val", **options))
    assert names(val) != names(open_source(root, "val", validation_fraction=0.25, seed=4))
    for source in (train, val):
        for index in range(len(source)):
            assert names(source)[index].startswith(("cat", "dog")[source.labels[index]])


def test_val_is_carved_out_of_the_train_folder_but_a_test_folder_stays(make_folder):
    root = make_folder(two_classes(10, "train/") | two_classes(2, "test/"))
    sizes = [len(open_source(root, split)) for split in ("train", "val", "test")]
    assert sum(sizes) == 24
    assert sizes[1] >= 2
    assert sizes[2] == 4
    assert len(open_source(root, validation_fraction=0)) == 20


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"split": "dev"}, "split"),
        ({"on_corrupt": "ignore"}, "on_corrupt"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"seed": -1}, "seed"),
        ({"channels": 2}, "as arrays"),
    ],
)
def test_wrong_options(make_folder, option, message):
    with pytest.raises(DMFormerError, match=message):
        open_source(make_folder(two_classes(1)), **option)


@pytest.mark.parametrize("source", [3, None, np.zeros(3)])
def test_wrong_kinds_of_source(source):
    with pytest.raises(DMFormerError, match="data source"):
        open_source(source)


def test_a_linked_folder_is_read_and_a_circle_is_refused(make_folder, tmp_path):
    outside = make_folder({"a.png": 5}, "elsewhere")
    root = make_folder(two_classes(1))
    os.symlink(outside, root / "cow")
    assert open_source(root, "all").class_names == ["cat", "cow", "dog"]
    os.symlink(root, root / "cat" / "loop")
    with pytest.raises(DMFormerError, match="link"):
        open_source(root, "all")


def test_channels_of_files(make_folder):
    root = make_folder(two_classes(1))
    for channels in (1, 3, 4):
        assert open_source(root, "all", channels=channels).read(0)[0].shape == (24, 30, channels)


def read_all(source, expected):
    for index, image in enumerate(expected):
        np.testing.assert_array_equal(source.read(index)[0], image)


def test_zip_is_read_by_threads_at_once(make_zip):
    source = open_source(make_zip(two_classes(20)), "all")
    expected = [source.read(index)[0] for index in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(read_all, source, expected) for _ in range(8)]:
            future.result()


def test_zip_is_read_by_other_processes(make_zip):
    source = open_source(make_zip(two_classes(5)), "all")
    expected = [source.read(index)[0] for index in range(10)]
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=read_all, args=(source, expected)) for _ in range(2)]
    for other in others:
        other.start()
    read_all(source, expected)
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0, 0]
    read_all(pickle.loads(pickle.dumps(source)), expected)  # as a spawned process gets it


# Arrays


def test_arrays_of_any_kind():
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 5), np.uint8)
    source = open_source((images, [0, 1, 2, 0, 1, 2]), "all")
    assert source.channels == 5
    assert source.class_names == ["0", "1", "2"]
    np.testing.assert_array_equal(source.read(4)[0], images[4])
    floats = open_source((images.astype("float32") + 0.4 * (images < 255), [0] * 6), "all")
    np.testing.assert_array_equal(floats.read(1)[0], images[1])
    grey = open_source((list(images[..., 0]), np.zeros((6, 1), int), ["thing", "none"]), "all")
    assert grey.read(0)[0].shape == (9, 8, 1)
    assert grey.class_names == ["thing", "none"]


def test_arrays_between_grey_and_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    image = open_source((grey, [0]), "all", channels=3).read(0)[0]
    np.testing.assert_array_equal(image, np.repeat(grey[0][..., None], 3, -1))
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert open_source((red, [0]), "all", channels=1).read(0)[0][0, 0, 0] == 76


def test_what_read_returns_does_not_reach_into_the_arrays():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    open_source((images, [0, 0]), "all").read(0)[0][:] = 9
    assert not images.any()


GOOD = np.full((3, 4, 4, 3), 200, np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((GOOD, [0, 1]), "one label per image"),
        ((GOOD, [0, -1, 1]), "0 or more"),
        ((GOOD, [0.0, 1.0, np.nan]), "whole class numbers"),
        ((GOOD, [0.5, 1, 1]), "whole class numbers"),
        ((GOOD, np.eye(3)), "argmax"),
        ((GOOD, ["a", "b", "c"]), "whole class numbers"),
        ((GOOD, [0, 2, 2]), "No image has label 1"),
        ((GOOD, [0, 1, 2], ["a", "b"]), "Label 2 has no name"),
        ((GOOD / 255, [0, 1, 2]), "multiply them by 255"),
        ((GOOD.astype(float) * 2, [0, 1, 2]), r"0\.\.255"),
        ((GOOD.astype(float) * np.nan, [0, 1, 2]), r"0\.\.255"),
        ((GOOD.astype(int), [0, 1, 2]), "uint8"),
        ((GOOD[0, 0], [0, 1, 2, 3]), "number, height, width"),
        (([GOOD[0], GOOD[1], GOOD[2, ..., :2]], [0, 1, 2]), "same number of channels"),
        (([GOOD[0], GOOD[1], GOOD[2, 0, 0]], [0, 1, 2]), "Image 2"),
        ((GOOD[:0], []), "Labels must"),
        ((GOOD,), "parts"),
    ],
)
def test_wrong_arrays(arrays, message):
    with pytest.raises(DMFormerError, match=message):
        open_source(arrays, "all")


def test_arrays_that_cannot_have_these_channels():
    with pytest.raises(DMFormerError, match="channels=5"):
        open_source((np.zeros((1, 4, 4, 5), np.uint8), [0]), "all", channels=3)


# Digits


def test_digits_splits_are_disjoint_complete_and_stratified():
    pytest.importorskip("sklearn")
    sources = {split: open_source("digits", split) for split in ("train", "val", "test")}
    sizes = {split: len(source) for split, source in sources.items()}
    assert sum(sizes.values()) == 1797
    assert [round(size / 1797, 2) for size in sizes.values()] == [0.7, 0.1, 0.2]
    assert len({name for source in sources.values() for name in names(source)}) == 1797
    for source in sources.values():
        share = np.bincount(source.labels, minlength=10) / len(source)
        assert np.abs(share - 0.1).max() < 0.01


def test_digits_are_smooth_and_full_range():
    pytest.importorskip("sklearn")
    image, _ = open_source("digits", "test", channels=1).read(0)
    assert image.shape == (32, 32, 1)
    assert image.max() > 200
    assert len(np.unique(image)) > 30
    with pytest.raises(DMFormerError, match="test"):
        open_source("digits", "all")
    with pytest.raises(DMFormerError, match="channel"):
        open_source("digits", channels=4)


def test_imagenette_as_a_user_opens_it(real_data):
    source = open_source(real_data / "imagenette" / "imagenette_160.zip", "val", verify=False)
    assert len(source) == 3925
    assert source.class_names[:2] == ["tench", "English springer"]
    assert source.read(0)[0].shape == (160, 160, 3)
