"""From images in any form to classes and masks, prepared as evaluation prepares them."""

import warnings

import numpy as np
import pytest
from helpers import randomize, tiny_backbone, tiny_classifier
from PIL import Image

from dmformer_keras import DMFormerError, SemanticFPN, classify, segment
from dmformer_keras.data import images, load_image, open_source
from dmformer_keras.inference import segment_image
from dmformer_keras.training import evaluate, to_probabilities
from dmformer_keras.training.batches import evaluation_batches

NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def classifier():
    return randomize(tiny_classifier(3, class_names=NAMES, input_shape=(48, 64, 3)))


@pytest.fixture(scope="module")
def segmenter():
    return randomize(SemanticFPN(tiny_backbone(input_shape=(None, None, 3)), 3, head_channels=8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Class folders of files of several sizes, one of which stands on its side."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name, size in zip(NAMES, [(90, 70), (64, 48), (50, 120)], strict=True):
        (folder / name).mkdir()
        image = Image.fromarray(random.integers(0, 256, (*size, 3), "uint8"))
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "dog" else 1
        image.save(folder / name / "0.png", exif=exif)
    return folder


def assert_same(found, expected):
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [share for _, share in found], [share for _, share in expected], rtol=1e-5
    )


@pytest.mark.parametrize("kept_pixels", [2**25, 1000])
def test_images_are_prepared_as_evaluation_prepares_them(
    classifier, photographs, monkeypatch, kept_pixels
):
    monkeypatch.setattr(images, "KEPT_PIXELS", kept_pixels)  # above, images are made smaller
    source = open_source(photographs, split="all")
    assert source.read(0)[0].shape == ((90, 70, 3) if kept_pixels > 1000 else (30, 24, 3))
    ((batch, labels),) = evaluation_batches(source, (48, 64), 3)
    expected = to_probabilities(classifier.predict(batch, verbose=0), None)
    paths = [photographs / NAMES[label] / "0.png" for label in labels]
    for found, row in zip(classify(classifier, paths, top=3), expected, strict=True):
        ranked = sorted(zip(NAMES, row, strict=True), key=lambda entry: -entry[1])
        assert_same(found, ranked)


@pytest.mark.once_under_torch
def test_paths_pil_images_and_arrays_are_the_same_images(classifier, photographs):
    for path in photographs.rglob("*.png"):
        expected = classify(classifier, path)
        assert_same(classify(classifier, str(path)), expected)
        assert_same(classify(classifier, Image.open(path)), expected)
        assert_same(classify(classifier, load_image(path)), expected)


@pytest.mark.once_under_torch
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F", "YCbCr"])
def test_pil_images_of_any_mode_are_read_as_their_files_are(classifier, tmp_path, mode):
    grey = np.random.default_rng(1).integers(0, 256, (60, 60), "uint8")
    if mode == "F":
        image = Image.fromarray(grey.astype("float32") / 255)
    elif mode == "I;16":
        image = Image.fromarray(grey.astype("uint16") * 256)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    path = tmp_path / ("image.tif" if mode in ("CMYK", "F", "YCbCr") else "image.png")
    image.save(path)
    assert_same(classify(classifier, image), classify(classifier, path))


@pytest.mark.once_under_torch
def test_one_image_gives_a_list_and_a_list_gives_lists(classifier, photographs):
    paths = sorted(photographs.rglob("*.png"))
    one = classify(classifier, paths[0], top=2)
    assert len(one) == 2
    assert one[0][1] >= one[1][1]
    assert isinstance(one[0][1], float)
    several = classify(classifier, paths[:1], top=2)
    assert_same(several[0], one)
    everything = classify(classifier, tuple(paths))
    assert [len(found) for found in everything] == [3, 3, 3]
    assert sum(share for _, share in everything[0]) == pytest.approx(1)
    assert classify(classifier, []) == []


@pytest.mark.once_under_torch
def test_classes_without_names_are_named_by_their_numbers():
    model = tiny_classifier(2, input_shape=(32, 32, 1))
    found = classify(model, np.zeros((40, 40), "uint8"))
    assert sorted(name for name, _ in found) == ["0", "1"]


@pytest.mark.once_under_torch
def test_grey_arrays_go_into_models_of_rgb(classifier):
    grey = np.random.default_rng(2).integers(0, 256, (50, 60), "uint8")
    assert_same(classify(classifier, grey), classify(classifier, np.stack([grey] * 3, -1)))


def test_a_mask_has_the_size_of_the_image(segmenter, photographs):
    for path in photographs.rglob("*.png"):
        expected = segment_image(segmenter, load_image(path))
        assert segment(segmenter, path).shape == load_image(path).shape[:2]
        for image in (path, Image.open(path), load_image(path)):
            np.testing.assert_array_equal(segment(segmenter, image), expected)
    np.testing.assert_array_equal(
        segment(segmenter, path, flip=True), segment_image(segmenter, load_image(path), flip=True)
    )


@pytest.mark.once_under_torch
def test_what_cannot_be_answered_is_refused(classifier, segmenter, tmp_path):
    image = np.zeros((40, 40, 3), "uint8")
    with pytest.raises(DMFormerError, match=r"call dmformer_keras\.segment"):
        classify(segmenter, image)
    with pytest.raises(DMFormerError, match=r"call dmformer_keras\.classify"):
        segment(classifier, image)
    with pytest.raises(DMFormerError, match="top must be a positive integer"):
        classify(classifier, image, top=0)
    with pytest.raises(DMFormerError, match=r"must be uint8 .* several images as a list"):
        classify(classifier, image[None])
    with pytest.raises(DMFormerError, match="must be uint8"):
        classify(classifier, image.astype("float32"))
    with pytest.raises(DMFormerError, match="2 channels and the model takes 3"):
        classify(classifier, image[..., :2])
    with pytest.raises(DMFormerError, match="must be a path"):
        classify(classifier, 3)
    with pytest.raises(DMFormerError, match="Cannot read"):
        classify(classifier, tmp_path / "absent.png")
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), "uint8")).save(cut)
    cut.write_bytes(cut.read_bytes()[:9000])
    with pytest.raises(DMFormerError, match="cannot be read"):
        classify(classifier, Image.open(cut))


@pytest.mark.once_under_torch
def test_pixels_in_0_to_1_are_told_of(classifier, segmenter):
    tiny = np.random.default_rng(0).integers(0, 2, (60, 60, 3), "uint8")
    for ask, model in ((classify, classifier), (segment, segmenter)):
        with pytest.warns(UserWarning, match=r"expected in 0\.\.255: multiply"):
            ask(model, tiny)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*multiply")
            ask(model, tiny * 255)
    source = open_source((tiny[None].repeat(3, 0), [0, 1, 2], NAMES), "all")
    with pytest.warns(UserWarning, match="multiply"):
        evaluate(classifier, source)


def test_an_image_without_pixels_is_none(classifier, segmenter):
    for function, model in ((classify, classifier), (segment, segmenter)):
        for shape in ((0, 50, 3), (40, 0, 3)):
            with pytest.raises(DMFormerError, match="must be uint8 of shape"):
                function(model, np.zeros(shape, "uint8"))
