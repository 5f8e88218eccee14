"""`benchmarks/few_images.py`: what is trained and what is measured on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmformer_keras.data import open_source

SCRIPTS = Path(__file__).parent.parent.parent / "benchmarks"
pytestmark = [
    pytest.mark.backend_independent,
    pytest.mark.skipif(not SCRIPTS.is_dir(), reason="not a source checkout"),
]


def pixels(folder):
    return {np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png")}


def test_runs_of_another_preset_or_size_are_refused(tmp_path, script, monkeypatch):
    few_images = script("few_images")
    rows = (few_images.PROBE, *few_images.RECIPES)
    monkeypatch.setattr(few_images, "measured", lambda *_: dict.fromkeys(rows, 0.5))
    folders = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "results")]
    command = ["few_images.py", "--data", "trees", "--preset", "dmformer_t_mix", *folders]
    monkeypatch.setattr("sys.argv", command)
    few_images.main()
    for other in (["--preset", "dmformer_n_mix"], ["--image-size", "96"]):
        monkeypatch.setattr("sys.argv", [*command, *other])
        with pytest.raises(SystemExit, match="runs of other settings"):
            few_images.main()


def test_a_draw_trains_on_some_of_each_class_and_measures_on_others(tmp_path, script):
    few_images = script("few_images")
    rng = np.random.default_rng(0)
    for name in ("ash", "oak"):
        (tmp_path / "trees" / name).mkdir(parents=True)
        for index in range(30):
            image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), "uint8"))
            image.save(tmp_path / "trees" / name / f"{index:02}.png")
    draws = [tmp_path / "first", tmp_path / "second"]
    for seed, draw in enumerate(draws):
        few_images.write_draw(tmp_path / "trees", 5, seed, draw)
        assert np.bincount(open_source(draw, "train").labels).tolist() == [5, 5]
        assert pixels(draw / "val") == pixels(draws[0] / "val")
        assert not pixels(draw / "train") & pixels(draw / "val")
    assert pixels(draws[0] / "train") != pixels(draws[1] / "train")
