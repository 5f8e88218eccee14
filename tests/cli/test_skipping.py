"""What `explain` and `export` do with damaged images: as `train` and `predict`."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import tiny_classifier
from PIL import Image

from dmformer_keras import DMFormerError
from dmformer_keras.cli import explain, export, options
from dmformer_keras.explain import figure

pytestmark = pytest.mark.backend_independent


@pytest.fixture
def data(tmp_path):
    """A folder whose splits have a damaged image each."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(folder / f"{number}.png")
        whole = (folder / "0.png").read_bytes()
        (folder / f"{split}_damaged.png").write_bytes(whole[:-30])
    return str(tmp_path / "data")


def test_the_next_command_leaves_out_what_this_one_has():
    for chosen, text in (
        ("skip", "--data 'my photos' --on-corrupt skip"),
        ("error", "--data 'my photos'"),
    ):
        assert options.same_data(SimpleNamespace(data="my photos", on_corrupt=chosen)) == text


def test_export_leaves_them_out_and_says_so(data, capsys):
    given = {"images": data, "representative_data": data, "opset": 18}
    args = SimpleNamespace(data=data, model="dmformer_n", on_corrupt="skip")
    export._open_data(given, args, tiny_classifier(2))
    assert len(given["images"]) == len(given["representative_data"]) == 6
    assert given["opset"] == 18
    message = capsys.readouterr().err
    assert "Skipped 2 file(s):" in message
    assert "train_damaged.png" in message
    assert "val_damaged.png" in message


def test_explain_leaves_them_out_and_says_so(data, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(figure, "draw_gates", lambda model, source, path: drawn.append(source))
    monkeypatch.setattr(explain, "load", lambda *_: tiny_classifier(2))
    given = {"model": "x", "image_size": None, "image": None, "data": data, "classes": None}
    args = SimpleNamespace(**given, output=str(tmp_path / "gates.png"), on_corrupt="skip")
    explain.run(args)
    assert [len(source) for source in drawn] == [6]
    assert "val_damaged.png" in capsys.readouterr().err
    args.on_corrupt = "error"
    with pytest.raises(DMFormerError, match=r"val_damaged.png.*on_corrupt"):
        explain.run(args)
