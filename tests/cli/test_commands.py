"""Each command as a user meets it: what it prints, and how it ends."""

import json
import shutil

import numpy as np
import pytest
from helpers import TINIEST, tiny_classifier

from dmformer_keras import DMFormerClassifier, DMFormerError
from dmformer_keras.cli import COMMANDS, main
from dmformer_keras.cli.options import print_metrics
from dmformer_keras.data import open_source
from dmformer_keras.training import Evaluation, Recipe, load_classifier

# `test_every_backend.py` has one training with what follows it on each.
pytestmark = pytest.mark.once_under_torch


def failure(capsys, *arguments):
    """Runs a command that must fail with one stated sentence, and returns that."""
    assert main([str(argument) for argument in arguments]) == 1
    message = capsys.readouterr().err
    assert message.startswith("dmformer: ")
    assert message.count("\n") == 1
    assert "bug" not in message
    return message


def test_help_shows_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_gives_examples(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"dmformer {command}" in text.split("example")[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["evaluate", "x", "--split", "all of it"],
        ["train", "--data", "x", "--output", "y", "--gradient-checkpointing", "5"],
        ["train", "--data", "x", "--output", "y", "--clip-norm", "nine"],
        ["train", "--data", "x", "--output", "y", "--epochs", "none"],
    ],
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: dmformer" in capsys.readouterr().err


def test_presets_lists_the_architectures(capsys):
    assert main(["presets"]) == 0
    text = capsys.readouterr().out
    assert "dmformer_n" in text
    assert "24,816,248" in text


def test_summary_counts_at_the_size_asked_for(capsys):
    assert main(["summary", "dmformer_n"]) == 0
    text = capsys.readouterr().out
    assert "2,208,100" in text
    assert "425,096,640" in text
    assert main(["summary", "dmformer_n", "--image-size", "64x96"]) == 0
    assert "64x96x3" in capsys.readouterr().out


def test_train_says_what_it_made(train_arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*train_arguments, "--epochs", "1", "--output", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "34 training and 6 validation images of 2 classes" in text
    assert "top-1" in text
    assert f"dmformer predict {folder}" in text
    assert "--epochs 1" in json.loads((folder / "metadata.json").read_text())["command"]


@pytest.fixture
def recipes(monkeypatch):
    """What `dmformer train` was to train by, in the place of its training."""
    given = []

    def stop(recipe, *arguments, **options):
        given.append(recipe)
        raise DMFormerError("Enough.")

    monkeypatch.setattr("dmformer_keras.cli.train.train", stop)
    return given


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["--gradient-checkpointing"], True),
        (["--gradient-checkpointing", "1", "2"], [1, 2]),
    ],
    ids=str,
)
def test_train_takes_the_stages_of_gradient_checkpointing(
    arguments, expected, train_arguments, tmp_path, recipes
):
    assert main([*train_arguments, *arguments, "--output", str(tmp_path / "run")]) == 1
    assert [recipe.gradient_checkpointing for recipe in recipes] == [expected]


def test_what_a_recipe_has_can_be_taken_back(recipes):
    arguments = ["train", "--data", "digits", "--output", "y", "--recipe", "imagenette_alone"]
    assert main(arguments) == 1
    back = ["--clip-norm", "none", "--image-size", "none", "--progressive-resizing"]
    assert main([*arguments, *back]) == 1
    whole, less = recipes
    assert (whole.clip_norm, whole.image_size) == (1.0, 128)
    assert len(whole.progressive_resizing) == 2
    assert (less.clip_norm, less.image_size, less.progressive_resizing) == (None, None, ())
    assert less.learning_rate == whole.learning_rate


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--epochs", "92"], ((64, 60), (96, 16))),
        (["--epochs", "20"], ((64, 13), (96, 3))),
        (["--epochs", "3"], ((64, 1), (96, 1))),
        (["--epochs", "2"], ((64, 1),)),
        (["--image-size", "96"], ((64, 30),)),
        (["--image-size", "64"], ()),
    ],
)
def test_the_sizes_of_a_recipe_take_their_parts_of_other_epochs(given, expected, recipes):
    arguments = ["train", "--data", "digits", "--output", "y", "--recipe", "imagenette_alone"]
    assert main([*arguments, *given]) == 1
    assert [recipe.progressive_resizing for recipe in recipes] == [expected]


@pytest.mark.parametrize("epochs", [1, 3, 14, 20, 24])
def test_other_epochs_leave_out_the_size_that_a_recipe_never_trains_at(epochs, recipes):
    arguments = ["train", "--data", "digits", "--output", "y", "--recipe", "imagenette"]
    assert main([*arguments, "--preset", "dmformer_n_mix", "--epochs", str(epochs)]) == 1
    (recipe,) = recipes
    assert sum(part for _, part in recipe.progressive_resizing) == epochs


@pytest.mark.parametrize(
    ("preset", "images", "expected"),
    [("tiny", 999, "few_images"), ("tiny", 1000, "fine_tuning"), ("dmformer_n", 10, None)],
)
def test_recipe_auto_goes_by_the_number_of_images(
    preset, images, expected, pictures, tiny_preset, tmp_path, recipes, monkeypatch, capsys
):
    monkeypatch.setattr(
        "dmformer_keras.cli.arguments.train.count_images", lambda *args, **options: images
    )
    preset = tiny_preset if preset == "tiny" else preset
    arguments = ["train", "--data", pictures, "--output", tmp_path / "run", "--preset", preset]
    assert main([str(argument) for argument in [*arguments, "--recipe", "auto"]]) == 1
    named = Recipe.named(expected) if expected else Recipe()
    assert [recipe for recipe in recipes] == [named]
    assert f"--recipe auto: {expected or 'the defaults'}, for" in capsys.readouterr().out


def test_top5_is_printed_where_it_tells_something(capsys):
    for classes, printed in ((10, False), (11, True)):
        names = [str(number) for number in range(classes)]
        print_metrics(Evaluation(names, np.eye(classes, dtype="int64"), classes, 0.0))
        assert ("top-5" in capsys.readouterr().out) == printed


def test_evaluate_repeats_the_figure_of_the_training(trained, pictures, capsys):
    assert main(["evaluate", str(trained), "--data", str(pictures), "--json"]) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    result = json.loads(output)
    reported = json.loads((trained / "report.json").read_text())["validation"]
    assert {name: result[name] for name in ("top1", "loss", "examples")} == {
        name: reported[name] for name in ("top1", "loss", "examples")
    }
    assert "top5" not in result
    assert result["class_accuracy"] == reported["class_accuracy"]


def test_evaluate_prints_for_people_too(trained, pictures, capsys):
    assert main(["evaluate", str(trained), "--data", str(pictures), "--split", "train"]) == 0
    text = capsys.readouterr().out
    assert "of 34 images" in text
    assert "bright" in text


def test_predict_names_files_and_folders(trained, pictures, capsys):
    picture = pictures / "dark" / "00.png"
    arguments = ["predict", trained, picture, pictures / "bright", "--json", "--top", "2"]
    assert main([str(argument) for argument in arguments]) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    predictions = json.loads(output)
    assert len(predictions) == 21
    assert predictions[0]["image"] == str(picture)
    for prediction in predictions:
        shares = [entry["probability"] for entry in prediction["predictions"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
        assert {entry["class"] for entry in prediction["predictions"]} == {"dark", "bright"}


def test_predict_prints_for_people_too(trained, pictures, capsys):
    assert main(["predict", str(trained), str(pictures / "dark" / "00.png"), "--top", "1"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("00.png")
    assert "%" in second


def test_an_exported_file_is_a_model_like_any_other(
    trained, pictures, tmp_path, capsys, unmeasured
):
    path = tmp_path / "model.tflite"
    assert main(["export", str(trained), "--output", str(path), "--data", str(pictures)]) == 0
    captured = capsys.readouterr()
    assert path.stat().st_size > 1000
    assert "same class on 100.00 %" in captured.out
    assert str(tmp_path / "model.tflite.report.json") in captured.out
    assert f"dmformer evaluate {path} --data {pictures}\n" in captured.out
    steps = ("Reading", "Folding", "Converting", "Comparing", "Measuring")
    assert all(step in captured.err for step in steps)
    # It evaluates and predicts as what it was made from.
    results = []
    for model in (trained, path):
        arguments = ["evaluate", str(model), "--data", str(pictures), "--json"]
        assert main(arguments) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["top1"] == results[1]["top1"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)
    picture = str(pictures / "dark" / "00.png")
    assert main(["predict", str(path), picture, "--top", "1"]) == 0
    assert "dark" in capsys.readouterr().out
    exported = ("export", path, "--output", tmp_path / "again.tflite")
    assert "exported file already" in failure(capsys, *exported)
    assert "--image-size" in failure(
        capsys, "evaluate", path, "--data", pictures, "--image-size", "32"
    )


def test_export_compares_on_images_that_the_run_has_not_seen(
    trained, pictures, tmp_path, monkeypatch, capsys
):
    given = []

    def stop(model, path, **options):
        given.append(options["images"])
        raise DMFormerError("Enough.")

    monkeypatch.setattr("dmformer_keras.export.to_tflite", stop)
    export = ["export", str(trained), "--output", str(tmp_path / "a.tflite"), "--data"]
    assert main([*export, str(pictures)]) == 1
    assert "trained on" not in capsys.readouterr().err
    renamed = tmp_path / "renamed"
    shutil.copytree(pictures, renamed)
    for path in renamed.rglob("*.png"):
        path.rename(path.with_name(f"again_{path.name}"))
    (renamed / "dark" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert main([*export, str(renamed), "--on-corrupt", "skip"]) == 1
    assert "images were trained on" in capsys.readouterr().err
    own, other = given
    expected = open_source(pictures, "val")
    assert [own.name(i) for i in range(len(own))] == [expected.name(i) for i in range(len(own))]
    assert other.split == "val"


def test_a_request_that_cannot_be_met_is_stated(trained, pictures, tmp_path, capsys):
    new = tmp_path / "new"
    train = ("train", "--data", pictures, "--output", new)
    assert "dmformer_n" in failure(capsys, *train, "--preset", "dmformer_nn")
    assert "nowhere" in failure(capsys, "train", "--data", "nowhere", "--output", new)
    assert "epochs" in failure(capsys, *train, "--epochs", "0")
    assert "image_size" in failure(capsys, *train, "--image-size", "16")
    assert "channels" in failure(capsys, *train, "--image-size", "32", "--channels", "2")
    assert "no run to resume" in failure(capsys, *train, "--resume")
    assert not new.exists()
    picture = pictures / "dark" / "00.png"
    below_a_file = picture / "run"
    assert "cannot be made" in failure(
        capsys, "train", "--data", pictures, "--output", below_a_file
    )
    assert "--resume" in failure(capsys, "train", "--data", pictures, "--output", trained)
    assert "--top" in failure(capsys, "predict", trained, picture, "--top", "0")
    assert "no file or folder" in failure(capsys, "predict", trained, "nowhere.png")
    assert "without weights" in failure(capsys, "predict", "dmformer_n", picture)
    assert "config.json" in failure(capsys, "evaluate", pictures, "--data", pictures)
    assert "classes" in failure(capsys, "evaluate", trained, "--data", "digits")
    export = ("export", trained, "--output")
    assert "--data" in failure(capsys, *export, tmp_path / "new.tflite", "--quantization", "int8")
    assert "--format" in failure(capsys, *export, tmp_path / "model.pb")
    assert "quantization must be None or 'int8'" in failure(
        capsys, *export, tmp_path / "model.onnx", "--quantization", "float16"
    )
    assert "--data-format is for onnx" in failure(
        capsys, *export, tmp_path / "model.tflite", "--data-format", "channels_first"
    )
    assert "--exact-gelu is for --quantization int8" in failure(
        capsys, *export, tmp_path / "model.tflite", "--exact-gelu"
    )
    assert "--precision is for openvino" in failure(
        capsys, *export, tmp_path / "model.tflite", "--precision", "bfloat16"
    )


def test_damaged_files_are_stated(trained, pictures, tmp_path, capsys):
    picture = tmp_path / "text.png"
    picture.write_text("no image")
    assert "text.png" in failure(capsys, "predict", trained, picture)
    broken = tmp_path / "model"
    shutil.copytree(trained, broken)
    weights = broken / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "altered or incomplete" in failure(capsys, "evaluate", broken, "--data", pictures)
    (broken / "config.json").write_text("{}")
    assert "config.json" in failure(capsys, "evaluate", broken, "--data", pictures)


def test_damaged_training_images_stop_the_training_or_are_skipped(
    pictures, train_arguments, tmp_path, capsys
):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    (data / "dark" / "broken.png").write_bytes((data / "dark" / "00.png").read_bytes()[:300])
    (data / "dark" / "notes.txt").write_text("of neither split")
    arguments = [*train_arguments, "--data", str(data), "--output", str(tmp_path / "run")]
    assert "broken.png" in failure(capsys, *arguments)
    assert main([*arguments, "--epochs", "1", "--on-corrupt", "skip"]) == 0
    printed = capsys.readouterr().out
    assert "Skipped 2 file(s):" in printed
    assert printed.count("notes.txt") == printed.count("broken.png") == 1
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    names = sorted(name for name, reason in report["skipped_images"])
    assert names == ["dark/broken.png", "dark/notes.txt"]


def test_an_unexpected_error_is_called_a_bug(monkeypatch, capsys):
    def fail(args):
        raise RuntimeError("what nobody foresaw")

    monkeypatch.setattr("dmformer_keras.cli.presets.run", fail)
    assert main(["presets"]) == 1
    message = capsys.readouterr().err
    assert "bug" in message
    assert "what nobody foresaw" in message
    assert "--debug" in message
    assert "Traceback" not in message
    with pytest.raises(RuntimeError):
        main(["presets", "--debug"])


def test_a_model_for_scaled_images_is_given_pixels_all_the_same(pictures, tmp_path, capsys):
    preset, run = tmp_path / "preset", tmp_path / "run"
    model = tiny_classifier(2, input_shape=(32, 32, 3), include_rescaling=False, **TINIEST)
    model.save_to_preset(preset, class_names=["bright", "dark"])
    arguments = ["train", "--data", pictures, "--preset", preset, "--output", run, "--epochs", "3"]
    options = ["--batch-size", "8", "--learning-rate", "3e-3", "--augmentation", "none"]
    assert main([str(argument) for argument in [*arguments, *options]]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(pictures), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1"] == 1.0
    # And it is the model of scaled images that was asked for: the same with them.
    trained = DMFormerClassifier.from_preset(run, include_rescaling=False)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(
        trained.predict(pixels / 127.5 - 1, verbose=0),
        load_classifier(run).predict(pixels, verbose=0),
        atol=1e-4,
    )
