import pickle
import stat
import zipfile

import numpy as np
import pytest
from image_files import encode, random_image
from PIL import Image

from dmformer_keras.data import IGNORED_LABEL, count_pixels, open_source
from dmformer_keras.data.images import turn_upright
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent

TABLE = b"index\tname\tr\tg\tb\n4\troad\t9\t9\t9\n1\tsky\t0\t0\t200\n7\tvoid\t0\t0\t0\n"


def random_mask(seed, labels=(0, 1, 2), height=24, width=30):
    return np.random.default_rng(seed).choice(labels, (height, width)).astype(np.uint8)


def pairs(count=10, prefix="", suffix="", labels=(0, 1, 2)):
    """{path: content} of `count` images with masks, the images' seeds being their numbers."""
    files = {}
    for number in range(count):
        files[f"{prefix}images/{number}.jpg"] = encode(random_image(number), "JPEG")
        mask = random_mask(number, labels)
        files[f"{prefix}masks/{number}{suffix}.png"] = encode(mask)
    return files


def segment(path, split="all", **options):
    return open_source(path, split, task="segment", **options)


def names(source):
    return [source.name(index) for index in range(len(source))]


def test_folder_of_images_and_masks(make_folder):
    source = segment(make_folder(pairs(3)))
    assert len(source) == 3
    assert source.class_names == ["0", "1", "2"]
    assert len(set(source.class_colors)) == 3
    assert names(source) == ["images/0.jpg", "images/1.jpg", "images/2.jpg"]
    image, mask = source.read(1)
    assert image.shape == (24, 30, 3)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, random_mask(1))
    grey, _ = segment(make_folder(pairs(3)), channels=1).read(0)
    assert grey.shape == (24, 30, 1)


@pytest.mark.parametrize("suffix", ["_mask", "_L", "_label", ".seg"])
def test_masks_may_all_end_alike(make_folder, suffix):
    source = segment(make_folder(pairs(12, suffix=suffix)))
    assert len(source) == 12
    for index, name in enumerate(names(source)):
        number = int(name.removeprefix("images/").removesuffix(".jpg"))
        np.testing.assert_array_equal(source.read(index)[1], random_mask(number))


def test_pairs_match_by_their_path_in_any_depth(make_folder):
    files = {
        "images/a/1.png": 1,
        "images/b/1.png": 2,
        "masks/a/1.png": encode(random_mask(1)),
        "masks/b/1.tif": encode(random_mask(2), "TIFF"),
    }
    source = segment(make_folder(files))
    for index in range(2):
        np.testing.assert_array_equal(source.read(index)[1], random_mask(index + 1))


def test_zip_equals_folder_wrapped_or_not(make_folder, make_zip):
    files = pairs(3, "train/") | pairs(2, "val/") | {"classes.tsv": b"0\ta\n1\tb\n2\tc\n"}
    wrapped = {f"set/{path}": content for path, content in files.items()}
    opened = [make_folder(files), make_zip(files), make_zip(wrapped, "wrapped.zip")]
    for split, count in (("train", 3), ("val", 2)):
        sources = [segment(path, split) for path in opened]
        for source in sources:
            assert names(source) == [f"{split}/images/{number}.jpg" for number in range(count)]
            assert source.class_names == ["a", "b", "c"]
            for index in range(count):
                for one, two in zip(source.read(index), sources[0].read(index), strict=True):
                    np.testing.assert_array_equal(one, two)


def test_splits_may_lie_inside_images_and_masks(make_folder):
    files = {}
    for path, content in (pairs(3, "train/") | pairs(2, "test/")).items():
        split, kind, name = path.split("/")
        files[f"{kind}/{split}/{name}"] = content
    root = make_folder(files)
    assert names(segment(root, "test")) == ["images/test/0.jpg", "images/test/1.jpg"]
    train, val = segment(root, "train"), segment(root, "val")
    assert sorted(names(train) + names(val)) == [f"images/train/{i}.jpg" for i in range(3)]
    np.testing.assert_array_equal(segment(root, "test").read(1)[1], random_mask(1))


def test_val_is_carved_alike_every_time(make_folder):
    root = make_folder(pairs(20))
    train, val = segment(root, "train"), segment(root, "val")
    assert 0 < len(val) < 8
    assert sorted(names(train) + names(val)) == sorted(names(segment(root, "all")))
    assert names(segment(root, "val")) == names(val)
    assert any(names(segment(root, "val", seed=seed)) != names(val) for seed in range(1, 5))
    assert 5 < len(segment(root, "val", validation_fraction=0.5)) < 15
    by_position = {"draw": "position", "validation_fraction": 0.5}
    assert len(segment(root, "val", **by_position)) == 10


def test_classes_file_names_orders_and_ignores(make_folder):
    files = pairs(2, labels=(1, 4, 7, 255)) | {"classes.tsv": TABLE}
    source = segment(make_folder(files))
    assert source.class_names == ["sky", "road"]
    assert source.class_colors == [(0, 0, 200), (9, 9, 9)]
    stored = random_mask(0, (1, 4, 7, 255))
    expected = np.select([stored == 1, stored == 4], [0, 1], IGNORED_LABEL)
    np.testing.assert_array_equal(source.read(0)[1], expected)


def test_rgb_masks_read_as_the_same_classes(make_folder):
    colors = {1: (0, 0, 200), 4: (9, 9, 9), 7: (0, 0, 0)}
    stored = random_mask(0, tuple(colors))
    lookup = np.zeros((256, 3), np.uint8)
    lookup[list(colors)] = list(colors.values())
    files = {"images/0.png": 0, "classes.tsv": TABLE}
    by_label = segment(make_folder(files | {"masks/0.png": encode(stored)}, "labels"))
    by_color = segment(make_folder(files | {"masks/0.png": encode(lookup[stored])}, "colors"))
    np.testing.assert_array_equal(by_color.read(0)[1], by_label.read(0)[1])
    del files["classes.tsv"]
    with pytest.raises(DMFormerError, match=r"masks/0.*write a classes\.tsv .*red, green, blue"):
        segment(make_folder(files | {"masks/0.png": encode(lookup[stored])}, "no_table"))


def test_without_classes_file_the_training_masks_tell(make_folder):
    files = pairs(2, "train/", labels=(1, 3, 255)) | pairs(2, "test/", labels=(1, 3))
    root = make_folder(files)
    assert segment(root, "test").class_names == ["0", "1", "2", "3"]
    source = segment(root, "test", ignored_labels=[0])
    assert source.class_names == ["1", "2", "3"]
    np.testing.assert_array_equal(source.read(0)[1], random_mask(0, (1, 3)) - 1)
    root = make_folder(files | pairs(1, "val/", labels=(1, 5)), "unknown")
    with pytest.raises(DMFormerError, match=r"'val/masks/0\.png' has label 5 in \d+ pixel"):
        segment(root, "val")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"0\ta\n1\n", "line '1'"),
        (b"zero\ta\n1\tb\n", "line 'zero a'"),
        (b"0\ta\t1\t2\n1\tb\n", "line '0 a 1 2'"),
        (b"0\ta\n0\tb\n", "twice"),
        (b"", r"0 class\(es\)"),
        (b"0\tc\xe4t\n", "UTF-8"),
    ],
)
def test_wrong_classes_files(make_folder, table, message):
    with pytest.raises(DMFormerError, match=message):
        segment(make_folder(pairs(1) | {"classes.tsv": table}))


def test_pixels_are_counted_while_verifying(make_folder):
    root = make_folder(pairs(5, labels=(0, 1, 1, 1, 255)))
    source = segment(root)
    masks = np.stack([random_mask(seed, (0, 1, 1, 1, 255)) for seed in range(5)])
    expected = [(masks == 0).sum(), (masks == 1).sum()]
    assert source.pixel_counts.tolist() == expected
    assert source.pixel_counts.dtype == np.int64
    assert source.ignored_pixels == (masks == 255).sum()
    assert f"1 1: {100 * expected[1] / masks.size:.2f} % of pixels" in source.describe()
    assert "5 images of 2 classes" in source.describe()
    unverified = segment(root, verify=False)
    assert unverified.pixel_counts is None
    assert "%" not in unverified.describe()
    assert count_pixels(unverified).tolist() == expected
    with pytest.raises(DMFormerError, match="task='segment'"):
        count_pixels(open_source("digits"))


BROKEN = {
    "an image without mask": ({"images/x.png": 0}, r"1 image.* of 4.*'images/x\.png' has no mask"),
    "a mask without image": (
        {"masks/x.png": encode(random_mask(0))},
        r"1 image.* of 4.*'masks/x\.png' has no image",
    ),
    "another size": (
        {"images/x.png": 0, "masks/x.png": encode(random_mask(0, height=20))},
        r"'masks/x\.png' is 30 wide and 20 high, but its image 'images/x\.png' is 30 x 24",
    ),
    "a jpeg mask": (
        {"images/x.png": 0, "masks/x.jpg": encode(random_mask(0), "JPEG")},
        r"masks/x\.jpg.*JPEG does not keep",
    ),
    "a damaged image": (
        {
            "images/x.jpg": encode(random_image(0), "JPEG")[:-200],
            "masks/x.png": encode(random_mask(0)),
        },
        r"images/x\.jpg",
    ),
    "a damaged mask": (
        {"images/x.png": 0, "masks/x.png": encode(random_mask(0))[:-40]},
        r"masks/x\.png",
    ),
    "an image of another format": ({"masks/x.tga": b"x"}, r"'masks/x\.tga' is a TGA image"),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_what_does_not_fit_is_named_or_left_out(make_folder, problem):
    extra, message = BROKEN[problem]
    root = make_folder(pairs(3) | extra)
    with pytest.raises(DMFormerError, match=message):
        segment(root)
    source = segment(root, on_corrupt="skip")
    assert names(source) == [f"images/{number}.jpg" for number in range(3)]
    assert len(source.skipped) == 1
    assert "/x." in source.skipped[0][0]
    assert source.pixel_counts.sum() == 3 * 24 * 30


def test_without_verifying_the_headers_are_still_looked_at(make_folder):
    for name, content in (("jpg", encode(random_mask(0), "JPEG")), ("png", b"nothing")):
        extra = {"images/x.png": 0, f"masks/x.{name}": content, "classes.tsv": b"0\ta\n1\tb\n"}
        root = make_folder(pairs(3, labels=(0, 1)) | extra, name)
        with pytest.raises(DMFormerError, match=r"1 image\(s\) of 4.*'masks/x"):
            segment(root, verify=False)
        assert len(segment(root, verify=False, on_corrupt="skip")) == 3


def test_labels_of_no_class_are_named_or_left_out(make_folder):
    table = {"classes.tsv": b"0\ta\n1\tb\n2\tc\n"}
    strange = encode(np.full((24, 30), 77, np.uint8))
    root = make_folder(pairs(3) | table | {"images/x.png": 0, "masks/x.png": strange})
    with pytest.raises(DMFormerError, match=r"1 image\(s\) of 4.*x\.png' has label 77 in 720"):
        segment(root)
    assert len(segment(root, on_corrupt="skip")) == 3
    assert segment(root, ignored_labels=[77]).ignored_pixels == 720


def test_black_and_white_masks_are_not_taken_for_ignored_ones(make_folder):
    files = pairs(2, labels=(0, 255))
    with pytest.raises(DMFormerError, match="fewer than two classes"):
        segment(make_folder(files))
    files |= {"classes.tsv": b"0\tfloor\n1\tcat\n"}
    with pytest.raises(DMFormerError, match="black-and-white masks write 1 for white"):
        segment(make_folder(files, "table"))


def test_layouts_that_are_not_for_the_task_are_told_so(make_folder):
    classes = {"cat/a.png": 0, "dog/b.png": 1}
    with pytest.raises(DMFormerError, match=r"no folder 'images/'.*task='classify'"):
        segment(make_folder(classes, "classes"))
    for prefix in ("", "train/"):
        root = make_folder(pairs(2, prefix), f"pairs{len(prefix)}")
        with pytest.raises(DMFormerError, match="task='segment'"):
            open_source(root, "train")
    with pytest.raises(DMFormerError, match="does not exist; give a folder with images/ and masks"):
        segment("nowhere")
    with pytest.raises(DMFormerError, match="no 'test' split"):
        segment(make_folder(pairs(2), "plain"), "test")
    with pytest.raises(DMFormerError, match="two files for one name"):
        segment(make_folder(pairs(2) | {"images/0.png": 3}, "twice"))
    with pytest.raises(DMFormerError, match="no image with a mask"):
        segment(make_folder({"images/.keep": b"", "masks/.keep": b""}, "empty"))
    with pytest.raises(DMFormerError, match="no masks"):
        segment("digits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "detect"}, "task must be"),
        ({"ignored_labels": [1]}, "for task='segment' only"),
        ({"task": "segment", "ignored_labels": 3}, "list of whole numbers"),
        ({"task": "segment", "ignored_labels": ["void"]}, "list of whole numbers"),
        ({"task": "segment", "channels": 2}, "channels"),
    ],
)
def test_wrong_options(make_folder, options, message):
    with pytest.raises(DMFormerError, match=message):
        open_source(make_folder(pairs(2)), "all", **options)


def test_unsafe_and_damaged_archives_are_refused(make_zip, tmp_path):
    with pytest.raises(DMFormerError, match="outside of the archive"):
        segment(make_zip(pairs(2) | {"../masks/evil.png": b"x"}))
    link = zipfile.ZipInfo("masks/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = make_zip(pairs(2), "link.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DMFormerError, match="is a link"):
        segment(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_turns_the_mask_that_lies_on_it_as_stored(make_folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    mask = random_mask(0)
    photo = np.repeat(mask[..., None] * 100, 3, axis=-1)
    files = {
        "images/0.png": encode(photo, exif=exif),
        "masks/0.png": encode(mask),
        "images/1.png": encode(photo, exif=exif),
        "masks/1.png": encode(turn_upright(mask, orientation)),
    }
    if orientation < 5:  # upright and stored masks have one size: taken as stored
        files["masks/1.png"] = files["masks/0.png"]
    source = segment(make_folder(files))
    for index in range(2):
        image, labels = source.read(index)
        np.testing.assert_array_equal(image[..., 0], labels * 100)
        assert image.shape[:2] == ((30, 24) if orientation >= 5 else (24, 30))


def test_arrays_of_images_and_masks():
    images = [random_image(seed, 10 + seed, 12) for seed in range(4)]
    masks = [random_mask(seed, (0, 1, 2, 255), 10 + seed, 12).astype(int) for seed in range(4)]
    source = segment((images, masks))
    assert source.class_names == ["0", "1", "2"]
    image, mask = source.read(3)
    np.testing.assert_array_equal(image, images[3])
    np.testing.assert_array_equal(mask, masks[3])
    named = segment((images, masks, ["a", "void", "b"]))
    assert named.class_names == ["a", "b"]
    assert named.pixel_counts.tolist() == [sum((m == k).sum() for m in masks) for k in (0, 2)]
    train, val = (segment((images, masks), split) for split in ("train", "val"))
    assert len(train) + len(val) == 4
    for source in (train, val):
        for index in range(len(source)):
            number = int(source.name(index).removeprefix("arrays[").removesuffix("]"))
            np.testing.assert_array_equal(source.read(index)[0], images[number])
            np.testing.assert_array_equal(source.read(index)[1], masks[number])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((3, 24, 30), int), "3 masks for 2 images"),
        (np.zeros(2, int), r"\(height, width\).*task='classify'"),
        (np.zeros((2, 24, 30)), "float64"),
        (np.array([random_mask(0)[:20]] * 2), "of arrays.0. is 30 wide and 20 high"),
        (np.array([random_mask(0).astype(int) - 1] * 2), "label -1"),
    ],
)
def test_wrong_arrays(masks, message):
    with pytest.raises(DMFormerError, match=message):
        segment(([random_image(0), random_image(1)], masks, ["a", "b", "c"]))


def test_wrong_number_of_parts():
    with pytest.raises(DMFormerError, match="4 parts"):
        segment(([], [], [], []))


def test_a_source_survives_pickling(make_zip):
    source = segment(make_zip(pairs(3)))
    copy = pickle.loads(pickle.dumps(source))
    for one, two in zip(copy.read(2), source.read(2), strict=True):
        np.testing.assert_array_equal(one, two)


def test_camvid(real_data):
    path = real_data / "camvid" / "camvid_360x480.zip"
    if not path.exists():
        pytest.skip("no camvid/camvid_360x480.zip")
    sources = {split: segment(path, split) for split in ("train", "val", "test")}
    assert [len(source) for source in sources.values()] == [367, 101, 233]
    train = sources["train"]
    assert len(train.class_names) == 11
    assert train.class_names[::10] == ["sky", "bicyclist"]
    assert train.class_colors[0] == (128, 128, 128)
    total = train.pixel_counts.sum() + train.ignored_pixels
    assert total == 367 * 360 * 480
    shares = 100 * np.append(train.pixel_counts, train.ignored_pixels) / total
    stated = [16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3, 4.0]
    np.testing.assert_allclose(shares, stated, atol=0.06)
    image, mask = sources["test"].read(5)
    assert image.shape == (360, 480, 3)
    assert mask.shape == (360, 480)
