"""The weights that are shipped: whole, small, described, and as good as their cards say."""

import json
import re
import shlex

import keras
import numpy as np
import pytest
from helpers import array

from dmformer_keras import presets
from dmformer_keras.cli import main
from dmformer_keras.training import load_trained

FOLDERS = sorted(path.parent for path in presets.weights_folder().glob("*/config.json"))
LARGEST = 60e6  # bytes, of all together
EVERY = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@pytest.mark.once_under_torch
def test_all_fit_into_a_wheel_that_is_small():
    files = [path for path in presets.weights_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    assert {path.suffix for path in files} <= {".h5", ".json", ".md", ".csv", ".png"}


@pytest.mark.once_under_torch
@EVERY
def test_a_preset_loads_and_has_a_card(folder):
    model = load_trained(folder.name)  # which compares the checksums
    shape = tuple(side or 64 for side in model.input.shape[1:])
    x = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    outputs = array(model(x))
    assert np.isfinite(outputs).all()
    assert np.abs(outputs[0] - outputs[1]).max() > 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {folder.name}\n")
    assert f"dmformer evaluate {folder.name} --data" in card
    assert "## Data and licence" in card
    assert "## Limits" in card
    # No path of the machine that made them.
    assert not re.search(r"(?<![\w.])/(work|tmp|home|root)/", card)
    assert not re.search(r"\"/(work|tmp|home|root)/", (folder / "metadata.json").read_text())


@pytest.mark.slow
@EVERY
def test_the_card_s_figures_are_repeated(folder, real_data, capsys):
    card = (folder / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^dmformer (evaluate .*)$", card, re.MULTILINE)
    arguments = shlex.split(command)
    place = arguments.index("--data") + 1
    arguments[place] = str(next(real_data.rglob(arguments[place])))
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    told = dict(re.findall(r"^\| ([\w ]+) \| ([\d.]+)(?: %)? \|$", card, re.MULTILINE))
    assert {"top1", "top5", "loss"} <= set(told) or {"miou", "pixel accuracy"} <= set(told)
    for name, figure in told.items():
        value = result[name.replace(" ", "_")] * (1 if name == "loss" else 100)
        if keras.config.backend() == "tensorflow":  # which made them
            assert f"{value:.{len(figure.partition('.')[2])}f}" == figure, name
        elif name != "loss":
            # Others round otherwise, and may see an image or two as another class.
            assert value == pytest.approx(float(figure), abs=0.1), name
