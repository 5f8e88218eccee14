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
