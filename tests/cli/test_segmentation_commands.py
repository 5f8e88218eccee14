"""The commands with a segmenter, as a user meets them."""

import json

import numpy as np
import pytest
from helpers import TINIEST, shapes, tiny_backbone
from PIL import Image
from test_commands import failure

from dmformer_keras.cli import main
from dmformer_keras.training import load_trained

pytestmark = pytest.mark.once_under_torch

TABLE = "index\tname\tr\tg\tb\n0\tground\t90\t90\t90\n1\tbox\t200\t0\t0\n2\tdisc\t0\t0\t200\n"


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """A folder of images/ and masks/ with a table of the classes."""
    folder = tmp_path_factory.mktemp("streets")
    pictures, masks, _ = shapes(12, (48, 64))
    for name, arrays in (("images", pictures), ("masks", masks)):
        (folder / name).mkdir()
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(folder / name / f"{number:02}.png")
    (folder / "classes.tsv").write_text(TABLE)
    return folder


@pytest.fixture(scope="module")
def segmenter(streets, tmp_path_factory):
    """The folder of a segmenter that `dmformer train --task segment` made."""
    preset = tmp_path_factory.mktemp("presets") / "tiny"
    tiny_backbone(input_shape=(None, None, 3), **TINIEST).save_to_preset(preset)
    folder = tmp_path_factory.mktemp("runs") / "segmenter"
    arguments = [
        "train", "--task", "segment", "--data", streets, "--preset", preset, "--output", folder,
        "--epochs", "1", "--batch-size", "4", "--image-size", "32", "--head-channels", "8",
        "--learning-rate", "3e-3",
    ]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_evaluate_repeats_the_figures_of_the_training(segmenter, streets, capsys):
    assert main(["evaluate", str(segmenter), "--data", str(streets), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    reported = json.loads((segmenter / "report.json").read_text())["validation"]
    assert "miou" in result
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "class_iou"):
        assert result[name] == reported[name]
    assert main(["evaluate", str(segmenter), "--data", str(streets), "--flip"]) == 0
    text = capsys.readouterr().out
    assert "mIoU" in text
    assert "disc" in text


def test_predict_writes_pictures_that_hold_the_classes(segmenter, streets, tmp_path, capsys):
    photo = tmp_path / "photo.jpg"
    Image.fromarray(shapes(1, (70, 90))[0][0]).save(photo)
    output = tmp_path / "out"
    arguments = [
        "predict", segmenter, photo, streets / "images", "--output", output, "--json",
    ]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    predictions = json.loads(capsys.readouterr().out)
    assert len(predictions) == 13
    first = predictions[0]
    mask = np.asarray(Image.open(first["mask"]))
    assert mask.shape == (70, 90)
    assert sum(entry["pixels"] for entry in first["classes"]) == 70 * 90
    for entry in first["classes"]:
        assert (mask == entry["index"]).sum() == entry["pixels"]
    overlay = Image.open(first["overlay"])
    assert overlay.width >= 90
    assert overlay.height > 70  # a legend below
    assert main(["predict", str(segmenter), str(photo), "--output", str(output)]) == 0
    assert "photo_overlay.png" in capsys.readouterr().out


def test_export_keeps_the_masks(segmenter, streets, tmp_path, capsys, unmeasured):
    path = tmp_path / "model.tflite"
    arguments = ["export", segmenter, "--output", path, "--data", streets]
    assert "--image-size" in failure(capsys, *arguments)
    assert main([str(argument) for argument in [*arguments, "--image-size", "48x64"]]) == 0
    text = capsys.readouterr().out
    assert "1x48x64x3" in text
    share = float(text.split("same class on ")[1].split("%")[0])
    assert share >= 99.9
    scores = []
    for model in (segmenter, path):
        arguments = ["evaluate", model, "--data", streets, "--split", "all", "--json"]
        assert main([str(argument) for argument in arguments]) == 0
        scores.append(json.loads(capsys.readouterr().out)["miou"])
    assert scores[0] == pytest.approx(scores[1], abs=0.002)
    load_trained(segmenter).save(tmp_path / "model.keras")
    arguments = ["export", tmp_path / "model.keras", "--output", path, "--image-size", "64"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "1x64x64x3" in capsys.readouterr().out


def test_what_does_not_belong_together_is_stated(segmenter, streets, tmp_path, capsys):
    photo = streets / "images" / "00.png"
    assert "--top" in failure(capsys, "predict", segmenter, photo, "--top", "2")
    assert "--batch-size" in failure(
        capsys, "evaluate", segmenter, "--data", streets, "--batch-size", "2"
    )
    assert "holds images" in failure(
        capsys, "predict", segmenter, photo, "--output", streets / "images"
    )
    assert "--window" in failure(capsys, "predict", segmenter, photo, "--image-size", "64")
    assert "overlap" in failure(
        capsys, "predict", segmenter, photo, "--overlap", "1", "--output", tmp_path / "out"
    )
    train = ("train", "--data", streets, "--output", tmp_path / "new")
    assert "segmentation" in failure(capsys, *train)
    assert "--task segment" in failure(capsys, *train, "--dice", "1")
    assert "--task classify" in failure(
        capsys, *train, "--task", "segment", "--label-smoothing", "0"
    )
    (streets / "masks" / "spare.png").write_bytes((streets / "masks" / "00.png").read_bytes())
    try:
        assert "spare" in failure(capsys, *train, "--task", "segment")
    finally:
        (streets / "masks" / "spare.png").unlink()
    assert not (tmp_path / "new").exists()
