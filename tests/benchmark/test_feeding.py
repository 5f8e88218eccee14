"""How fast training is fed: the figures of benchmarks/feeding.py."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import TINIEST, tiny_classifier

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "feeding.py"
spec = importlib.util.spec_from_file_location("feeding", SCRIPT)
feeding = importlib.util.module_from_spec(spec)
spec.loader.exec_module(feeding)


class _Slow:
    """A model whose steps take a time of its own, on whatever batch."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def train_on_batch(self, images, labels):
        self.clock.now += self.seconds


class _Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


def feed_of(clock, seconds, steps=4, batch_size=8):
    """A feed whose batches take a time each, but for those read ahead."""
    feed = object.__new__(feeding.Feed)
    feed.batch_size, feed.steps = batch_size, steps

    def batches():
        for _ in range(10):
            yield np.zeros(1), np.zeros(1)
        while True:
            clock.now += seconds
            yield np.zeros(1), np.zeros(1)

    feed.batches = batches()
    return feed


@pytest.mark.once_under_torch
def test_the_share_of_feeding_is_what_one_batch_saves(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(feeding, "time", clock)
    feeds = {"files": feed_of(clock, 0.3), "memory": feed_of(clock, 0.1)}
    found = feeding.measured(feeds, _Slow(clock, 0.1), rounds=3)
    assert {len(values) for figures in found.values() for values in figures.values()} == {3}
    assert found["files"]["alone"] == pytest.approx([8 / 0.3] * 3)
    assert found["files"]["trained"] == pytest.approx([8 / 0.4] * 3)
    assert found["memory"]["repeated"] == pytest.approx([8 / 0.1] * 3)
    lines = feeding.table(found).splitlines()
    assert lines[2] == "| files | 27 ± 0 | 20 ± 0 | 75 ± 0 % |"
    assert lines[3] == "| memory | 80 ± 0 | 40 ± 0 | 50 ± 0 % |"


@pytest.mark.once_under_torch
def test_the_model_is_trained_on_the_batches(tmp_path):
    from dmformer_keras.data import open_source

    source = open_source("digits", "train")
    recipe = feeding.Recipe(image_size=32, batch_size=8)
    tiny_classifier(input_shape=(32, 32, 3), **TINIEST).save_to_preset(tmp_path)
    model = feeding.trained_model(tmp_path, source, recipe)
    before = keras.ops.convert_to_numpy(model.trainable_variables[0])
    assert feeding.Feed(source, recipe, steps=1).trained(model) > 0
    feeding.Feed(source, recipe, steps=1).repeated(model)
    assert (keras.ops.convert_to_numpy(model.trainable_variables[0]) != before).any()
