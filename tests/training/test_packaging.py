"""The preset that is shared of a run: smaller, measured again, and described."""

import dataclasses
import json
import re

import h5py
import numpy as np
import pytest
from helpers import array

from dmformer_keras import DMFormerClassifier, DMFormerError, hub, presets
from dmformer_keras.cli import main
from dmformer_keras.data import open_source
from dmformer_keras.presets.download import FILES
from dmformer_keras.training import evaluate, load_classifier, packaging, train

pytestmark = pytest.mark.once_under_torch


def stored_types(folder):
    """{(is a kernel, type)} of all stored weights."""
    found = set()

    def look(name, item):
        if isinstance(item, h5py.Dataset):
            found.add((item.ndim > 1, str(item.dtype)))

    for path in folder.glob("*.weights.h5"):
        with h5py.File(path) as file:
            file.visititems(look)
    return found


def test_kernels_take_half_and_the_card_s_figures_are_of_what_is_stored(
    finished_run, data, tmp_path
):
    run, _ = finished_run
    folder = tmp_path / "dmformer_stripes"
    evaluation = packaging.package(run, folder, data, notes="## Licence\n\nNone.")
    assert stored_types(folder) == {(True, "float16"), (False, "float32")}
    assert evaluate(load_classifier(folder), open_source(data, "val")).metrics() == (
        evaluation.metrics()
    )
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype("float32")
    given, own = (array(DMFormerClassifier.from_preset(one)(x)) for one in (folder, run))
    np.testing.assert_allclose(given, own, atol=2e-2)
    assert np.abs(given - own).max() > 0  # rounded

    card = (folder / "README.md").read_text()
    assert card.startswith("# dmformer_stripes\n")
    assert f"Classes: {', '.join(data[2])}." in card
    assert f"| top1 | {100 * evaluation.top1:.2f} % |" in card
    assert f"| loss | {evaluation.loss:.4f} |" in card
    assert "```sh\na command\n```" in card
    assert 'DMFormerClassifier.from_preset("dmformer_stripes")' in card
    assert "kernels in float16" in card
    assert card.rstrip().endswith("## Licence\n\nNone.")
    assert (folder / "history.csv").read_text() == (run / "history.csv").read_text()
    # Nothing that tells the training images: neither their list nor the state of the run.
    assert {path.name for path in folder.rglob("*")} <= set(FILES)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["command"] == "a command"
    assert metadata["class_names"] == data[2]


def test_the_folder_may_be_the_one_that_is_worked_in(finished_run, data, tmp_path, monkeypatch):
    folder = tmp_path / "dmformer_n"  # a built-in preset's name
    folder.mkdir()
    monkeypatch.chdir(folder)
    packaging.package(finished_run[0], ".", data)
    assert (folder / "README.md").read_text().startswith("# dmformer_n\n")


def test_the_commands_of_a_card_name_the_preset_where_it_is(
    finished_run, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    packaging.package(finished_run[0], "weights/stripes", data)
    preset = presets.read_preset("weights/stripes")
    cards = {
        "weights/stripes": (preset.folder / "README.md").read_text(),
        "hf://me/lines": hub.model_card(preset, "me/lines"),
    }
    for address, card in cards.items():
        assert f'DMFormerClassifier.from_preset("{address}")' in card
        assert f"\ndmformer evaluate {address} --data" in card
        assert f"\ndmformer predict {address} IMAGE" in card
        assert "# stripes\n" in card


def test_float32_is_kept_where_half_precision_costs_accuracy(
    finished_run, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(packaging, "LARGEST_LOSS", -1)
    packaging.package(finished_run[0], tmp_path / "whole", data)
    assert stored_types(tmp_path / "whole") == {(True, "float32"), (False, "float32")}
    assert "Stored: float32." in (tmp_path / "whole" / "README.md").read_text()


def test_many_classes_are_listed_once(finished_run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(packaging, "MOST_LISTED", len(data[2]) - 1)
    packaging.package(finished_run[0], tmp_path / "whole", data)
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "Classes:" not in card
    for name in data[2]:
        assert len(re.findall(rf"\b{name}\b", card)) == 1, name


def test_the_card_tells_of_the_trainings_before(data, recipe, finished_run, tmp_path):
    first, _ = finished_run
    again = dataclasses.replace(recipe, epochs=1, warmup_epochs=0.0, mixup=0.0, accumulate=1)
    train(again, first, data, tmp_path / "second", command="the next command", verbose=0)
    output = tmp_path / "a name with spaces"
    packaging.package(tmp_path / "second", output, data)
    card = (output / "README.md").read_text()
    assert "```sh\na command\nthe next command\n```" in card
    assert "dmformer evaluate 'a name with spaces' --data" in card
    assert 'from_preset("a name with spaces")' in card
    # Told where it differs from what it is by default.
    assert "warmup_epochs 0.0" in card
    assert "mixup" not in card
    report = json.loads((tmp_path / "second" / "report.json").read_text())
    (earlier,) = report["earlier"]
    first_report = json.loads((first / "report.json").read_text())
    assert earlier["training_seconds"] == first_report["training_seconds"]


def test_what_cannot_be_packaged_is_refused(finished_run, data, tmp_path, capsys):
    run, _ = finished_run
    with pytest.raises(DMFormerError, match="holds no finished training run"):
        packaging.package(tmp_path, tmp_path / "out", data)
    with pytest.raises(DMFormerError, match="not empty"):
        packaging.package(run, run, data)
    with pytest.raises(DMFormerError, match="not trained on"):
        packaging.package(run, tmp_path / "out", data, split="train")
    arguments = ["package", str(run), "--output", str(tmp_path / "out"), "--data", "digits"]
    assert main([*arguments, "--notes", str(tmp_path / "none.md")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "latin.md").write_bytes("Stra\xdfe".encode("latin-1"))
    assert main([*arguments, "--notes", str(tmp_path / "latin.md")]) == 1
    assert "no text in UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
