"""What a folder or a zip is taken for, by the names of its folders."""

import os

import numpy as np
import pytest
from image_files import encode, random_image, two_classes
from test_segmentation_source import pairs, segment

from dmformer_keras.data import open_source
from dmformer_keras.data.image_source import skipped_files, skipped_lines
from dmformer_keras.data.splits import split_of_name
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent

SPLIT_FOLDERS = [
    ("train", "test"),
    ("Training", "Test"),
    ("training", "validation"),
    ("train", "dev"),
    ("TRAIN", "EVAL"),
    ("seg_train", "seg_test"),
    ("training_set", "test_set"),
    ("train2017", "val2017"),
    ("train_images", "test_images"),
    ("train", "test1"),
    ("images_train", "images_val"),
]
JUNK = {
    "README.md": b"read me",
    "LICENSE": b"free",
    "__MACOSX/photos/._cat.jpg": b"x",
    ".ipynb_checkpoints/a-checkpoint.png": b"x",
    ".thumbnails/a.png": b"x",
    "@eaDir/a.png/SYNOPHOTO_THUMB.jpg": b"x",
    "Thumbs.db": b"x",
    ".DS_Store": b"x",
    ".hidden/cat/a.png": b"x",
}


@pytest.fixture(params=["folder", "zip"])
def make(request, make_folder, make_zip):
    """Function {path: content} -> a folder, or a zip archive."""
    return make_folder if request.param == "folder" else make_zip


def names(source):
    return [source.name(index) for index in range(len(source))]


@pytest.mark.parametrize(("training", "other"), SPLIT_FOLDERS)
def test_split_folders_by_the_names_in_use(make, training, other):
    root = make(two_classes(3, f"{training}/") | two_classes(2, f"{other}/"))
    source = open_source(root, "train", validation_fraction=0)
    assert source.class_names == ["cat", "dog"]
    assert len(source) == 6
    split = split_of_name(other)
    assert split in ("val", "test")
    assert names(open_source(root, split)) == [
        f"{other}/{name}/{i}.png" for name in ("cat", "dog") for i in (0, 1)
    ]


@pytest.mark.parametrize("name", ["trainer", "constraint", "values", "testimony", "contest", "t"])
def test_other_words_are_no_splits(name):
    assert split_of_name(name) is None


def test_a_split_may_be_wrapped_in_itself(make):
    root = make(two_classes(3, "seg_train/seg_train/") | two_classes(2, "seg_test/seg_test/"))
    assert len(open_source(root, "train", validation_fraction=0)) == 6
    assert open_source(root, "test").class_names == ["cat", "dog"]


@pytest.mark.parametrize("other", ["extra/0.png", "unlabeled/x/0.png", "sample/cat/0.png"])
def test_a_split_beside_something_else_is_not_taken_for_a_class(make, other):
    root = make(two_classes(3, "train/") | {other: 1})
    message = "'train' of .* has the name of a split and holds 'cat', 'dog', but lies beside"
    with pytest.raises(DMFormerError, match=message):
        open_source(root, "train")
    # Means of transport: one of them has photographs of its own.
    files = two_classes(3, "train/") | {"bus/0.png": 1, "train/0.png": 1, "bus/1.png": 1}
    root = make(files, "transport")
    assert open_source(root, "all").class_names == ["bus", "train"]


@pytest.mark.parametrize("tops", [("part1", "part2"), ("Fold A", "Fold B", "Fold C"), ("tr", "te")])
def test_splits_by_unknown_names_are_not_taken_for_classes(make, tops):
    files = {}
    for top in tops:
        files |= two_classes(2, f"{top}/")
    with pytest.raises(DMFormerError, match=r"as splits do; call them train, val and test") as told:
        open_source(make(files), "all")
    assert all(repr(top) in str(told.value) for top in tops)


def test_a_misspelt_split_beside_a_right_one_is_no_class(make):
    files = two_classes(2, "train/") | two_classes(2, "validatoin/")
    with pytest.raises(DMFormerError, match=r"'train', 'validatoin'.*call them"):
        open_source(make(files), "train")


def test_classes_with_folders_alike_are_classes_where_a_table_says_so(make):
    files = {
        f"{name}/{view}/{i}.png": i for name in ("cat", "dog") for view in "ab" for i in (0, 1)
    }
    with pytest.raises(DMFormerError, match=r"list them in a classes\.tsv if they are classes"):
        open_source(make(files), "all")
    source = open_source(make(files | {"classes.tsv": b"0\tcat\n1\tdog\n"}, "named.zip"), "all")
    assert source.class_names == ["cat", "dog"]
    assert len(source) == 8


def test_splits_inside_the_classes_are_refused(make):
    files = {f"{name}/{part}/a.png": 0 for name in ("cat", "dog") for part in ("train", "test")}
    with pytest.raises(DMFormerError, match=r"splits inside its class folders.*train/cat"):
        open_source(make(files), "train")


@pytest.mark.parametrize("wrapper", ["photos/", "a/b/c/", "./", "./photos/", "test/"])
@pytest.mark.parametrize("prefixes", [("",), ("train/", "test/")])
def test_wrapper_folders_and_loose_files_are_passed_over(make, wrapper, prefixes):
    files = {}
    for prefix in prefixes:
        files |= two_classes(3, prefix)
    if wrapper == "test/" and prefixes == ("",):
        pytest.skip("a test split alone")
    wrapped = {wrapper + path: content for path, content in files.items()}
    wrapped |= {wrapper + path: content for path, content in JUNK.items()}
    if wrapper != "./":
        wrapped |= JUNK
    root = make(wrapped)
    split = "all" if prefixes == ("",) else "test"
    source = open_source(root, split)
    assert source.class_names == ["cat", "dog"]
    assert names(source) == sorted(path for path in files if path.startswith(prefixes[-1]))
    assert source.skipped == []


def test_a_class_table_beside_a_wrapper_counts(make):
    files = two_classes(2, "photos/") | {"classes.tsv": b"0\tdog\tHund\n1\tcat\tKatze\n"}
    source = open_source(make(files), "all")
    assert source.class_names == ["Hund", "Katze"]
    assert names(source)[0] == "dog/0.png"


def test_images_outside_of_the_classes_are_not_lost_in_silence(make):
    files = {"photos/cover.png": 9} | two_classes(2, "photos/")
    source = open_source(make(files), "all")
    assert source.skipped == [("cover.png", "'cover.png' lies in no class folder.")]
    files = {f"photos/{i}.png": i for i in range(9)} | two_classes(2, "photos/")
    with pytest.raises(
        DMFormerError, match=r"9 images outside of its class folders.* and 4 inside"
    ):
        open_source(make(files, "more.zip"), "all")


def test_wrapped_masks(make):
    plain = pairs(3, "train/") | pairs(2, "val/") | {"classes.tsv": b"0\ta\n1\tb\n2\tc\n"}
    wrapped = JUNK | {f"set/v1/{path}": content for path, content in plain.items()}
    assert names(segment(make(wrapped), "val")) == ["val/images/0.jpg", "val/images/1.jpg"]


def test_ade20k_as_it_is_published(make):
    files = {"ADE/objectInfo150.txt": b"x", "ADE/sceneCategories.txt": b"x"}
    for split, count in (("training", 4), ("validation", 2)):
        for path, content in pairs(count).items():
            kind, name = path.split("/")
            kind = {"images": "images", "masks": "annotations"}[kind]
            files[f"ADE/{kind}/{split}/{name}"] = content
    root = make(files)
    assert names(segment(root, "train")) == [f"images/training/{i}.jpg" for i in range(4)]
    assert names(segment(root, "val")) == [f"images/validation/{i}.jpg" for i in range(2)]
    with pytest.raises(DMFormerError, match="no 'all' split"):
        segment(root, "all")


def test_splits_of_images_and_masks_may_be_called_otherwise(make):
    files = {}
    for path, content in pairs(3).items():
        kind, name = path.split("/")
        files[f"{kind}/{'train' if kind == 'images' else 'training'}/{name}"] = content
        files[f"{kind}/{'Val' if kind == 'images' else 'validation'}/{name}"] = content
    assert names(segment(make(files), "val")) == [f"images/Val/{i}.jpg" for i in range(3)]


def test_unknown_splits_of_masks(make):
    with pytest.raises(DMFormerError, match=r"'a', 'b' .*as splits do; call them"):
        segment(make(pairs(2, "a/") | pairs(2, "b/")), "all")


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.JPG", "a.mpo"])
def test_endings_of_jpeg_files(make, name):
    photo = encode(random_image(1), "JPEG")
    source = open_source(make(two_classes(1) | {f"cat/{name}": photo}), "all")
    assert f"cat/{name}" in names(source)


def test_a_folder_to_predict_is_listed_by_the_same_rules(make_folder):
    from dmformer_keras.cli.predict import image_files

    photo = encode(random_image(1), "JPEG")
    good = {"a/1.png": 1, "a/2.jfif": photo, "b/c/3.JPG": photo, "4.jpg": photo}
    files = good | JUNK | {"._cat.jpg": b"x", "a/notes.txt": b"x"}
    root = make_folder(files)
    paths, skipped = image_files([str(root)])
    assert sorted(path.relative_to(root).as_posix() for path in paths) == sorted(good)
    assert skipped == []
    bad = {"a/empty.jpg": b"", "a/cut.jpg": photo[:-200], "a/x.heic": b"x"}
    root = make_folder(good | bad, "bad")
    with pytest.raises(DMFormerError, match=r"2 image\(s\) of 7 .*HEIC.*1 more.*on_corrupt"):
        image_files([str(root)])
    paths, skipped = image_files([str(root)], "skip")
    assert sorted(path.relative_to(root).as_posix() for path in paths) == sorted(good)
    assert len(skipped) == 3


@pytest.mark.parametrize("name", [b"caf\xe9", b"bell\x07", b"x" * 300])
def test_class_names_that_cannot_be_printed_are_refused_before_work(tmp_path, make_zip, name):
    if len(name) > 255:
        files = {"a/1.png": 1, "b/1.png": 2, "classes.tsv": b"0\ta\t" + name + b"\n1\tb\n"}
        root = make_zip(files)
    else:
        root = tmp_path / "data"
        for folder in (name, b"dog"):
            path = bytes(root) + b"/" + folder
            os.makedirs(path)
            with open(path + b"/1.png", "wb") as file:
                file.write(encode(random_image(0)))
    with pytest.raises(DMFormerError, match=r"has the class .*(rename|shorten) it") as told:
        open_source(root, "all")
    assert str(told.value).isprintable()


@pytest.mark.parametrize(
    "twin", ["cat ", "caf\u00e9", "cafe\u0301", "c\u200bat", "\u2003cat", "Cat", "cats"]
)
def test_classes_that_look_the_same_are_refused(make_folder, twin):
    other = "caf\u00e9" if twin.startswith("cafe") else "cafe\u0301"
    other = other if twin.startswith("caf") else "cat"
    root = make_folder({f"{name}/{i}.png": i for name in (other, twin, "dog") for i in (0, 1)})
    if twin in ("Cat", "cats"):
        assert len(open_source(root, "all").class_names) == 3
        return
    with pytest.raises(
        DMFormerError, match=r"two classes that look the same, '.*; rename one"
    ) as e:
        open_source(root, "all")
    assert str(e.value).isascii()


def test_names_of_a_class_table_are_told_apart_and_may_be_left_empty(make):
    files = {f"{name}/{i}.png": i for name in ("cat", "dog") for i in (0, 1)}
    table = b"0\tcat\tcrane\n1\tdog\tcrane\xe2\x80\x8b\n"
    with pytest.raises(DMFormerError, match="look the same"):
        open_source(make(files | {"classes.tsv": table}, "twins.zip"), "all")
    # ImageNet's birds and machines, whose folders tell them apart.
    table = b"0\tcat\tcrane\n1\tdog\tcrane\n"
    assert open_source(make(files | {"classes.tsv": table}), "all").class_names == ["crane"] * 2
    table = b"0\tcat\t\n1\tdog\tDog\n"
    source = open_source(make(files | {"classes.tsv": table}, "other.zip"), "all")
    assert source.class_names == ["cat", "Dog"]
    with pytest.raises(DMFormerError, match="no visible character"):
        open_source(make(files | {" /1.png": 1}, "third.zip"), "all")


def test_files_whose_names_are_no_utf_8_are_read_and_printed(tmp_path):
    for folder in ("cat", "dog"):
        os.makedirs(tmp_path / folder)
        with open(bytes(tmp_path / folder) + b"/\xff\n.png", "wb") as file:
            file.write(encode(random_image(0)))
        with open(bytes(tmp_path / folder) + b"/\xff.jpg", "wb") as file:
            file.write(b"x")
    source = open_source(tmp_path, "all", on_corrupt="skip")
    assert len(source) == 2
    source.describe().encode("utf-8")
    assert r"\udcff.jpg" in source.describe()
    reasons = [reason for _, reason in skipped_files(source, source)]
    assert len(reasons) == 2
    skipped_lines(reasons).encode("utf-8")


def test_all_that_is_wrong_with_a_layout_is_said_at_once(make):
    files = {f"train/{name}/{i}.png": i for name in ("cat", "dog") for i in (0, 1)}
    files |= {"train/empty/notes.txt": b"x", "train/bird/1.png": 1, "train/fish/1.png": 1}
    files |= {f"train/{i}.png": i for i in range(9)}
    files["classes.tsv"] = b"0\tcat\n1\tdog\n2\tempty\n3\thorse\n4\tcow\n"
    with pytest.raises(DMFormerError) as caught:
        open_source(make(files), "train")
    message = str(caught.value)
    assert "has 4 problems: " in message
    assert "no folder 'train/cow' (and 1 more), which its classes.tsv names" in message
    assert "The class folder 'train/bird' (and 1 more) is not in classes.tsv" in message
    assert message.endswith("(and 2 more)")
    assert len(message) <= 400
    # What is mended is not said again.
    del files["train/empty/notes.txt"], files["train/bird/1.png"], files["train/fish/1.png"]
    files["classes.tsv"] = b"0\tcat\n1\tdog\n"
    with pytest.raises(DMFormerError, match="9 images outside of its class folders") as caught:
        open_source(make(files, "again.zip"), "train")
    assert "problems" not in str(caught.value)


def of_page(text):
    """{path: content} of a tree as docs/own_images.md draws it, by indentation."""
    files, parents = {}, []
    for line in text.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.strip().removesuffix(" ...")
        parents[depth:] = [name]
        if not name.endswith("/"):
            path = "".join(parents)
            masks = any(one in path for one in ("masks/", "annotations/", "label/"))
            mask = encode(np.eye(24, 30, dtype=np.uint8))
            files[path] = b"x" if name.endswith(".md") else mask if masks else len(files)
    return files


TREES = {
    "wrapped": "a/\n  README.md\n  photos/\n    cat/1.jpg ...\n    dog/1.jpg\n  __MACOSX/",
    "in themselves": "seg_train/\n  seg_train/\n    cat/1.jpg\n    dog/1.jpg\n"
    "seg_test/\n  seg_test/\n    cat/1.jpg\n    dog/1.jpg",
    "other names": "photos/\n  Training/\n    cat/1.jpg\n    dog/1.jpg\n"
    "  Test/\n    cat/1.jpg\n    dog/1.jpg",
}
MASKED = {
    "outside": "s/\n  train/\n    images/1.jpg\n    masks/1.png\n  val/\n    images/2.jpg\n"
    "    masks/2.png",
    "inside": "s/\n  images/\n    training/1.jpg\n    validation/2.jpg\n  annotations/\n"
    "    training/1.png\n    validation/2.png",
    "an ending": "s/\n  img/\n    1.jpg\n    2.jpg\n  label/\n    1_mask.png\n    2_mask.png",
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_the_trees_of_the_page_are_understood(make, tree):
    source = open_source(make(of_page(tree)), "train", validation_fraction=0)
    assert source.class_names == ["cat", "dog"]
    assert len(source) == 2


@pytest.mark.parametrize("tree", MASKED.values(), ids=MASKED)
def test_the_trees_of_the_page_with_masks_are_understood(make, tree):
    options = {"task": "segment", "validation_fraction": 0}
    source = open_source(make(of_page(tree)), "train", **options)
    assert names(source)[0].endswith("1.jpg")
    assert source.class_names == ["0", "1"]
