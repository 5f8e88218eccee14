import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import array, features, tiny_classifier

from dmformer_keras import DMFormerBackbone
from dmformer_keras.training import Recipe

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"
pytestmark = [
    pytest.mark.once_under_torch,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="not a source checkout"),
]


@pytest.fixture(scope="module")
def ablation(script):
    return script("ablation")


@pytest.fixture(scope="module")
def mixers(script):
    return script("mixers")


def test_other_mixers_have_the_same_budget(ablation, mixers):
    names = list("abcdefghij")
    expected = ablation.counts(ablation.build("dma", 48, names))
    for name in mixers.MIXERS:
        found = ablation.counts(ablation.build(name, 48, names))
        np.testing.assert_allclose(found, expected, rtol=0.05, err_msg=name)


def test_only_the_mixer_differs(ablation, mixers):
    def others(model):
        return [w.path for w in model.weights if "/attention/" not in w.path]

    for name in mixers.MIXERS:
        _, _, depths, _ = ablation.CONTESTANTS[name]
        ours = DMFormerBackbone(ablation.CHANNELS, depths, input_shape=(48, 48, 3))
        theirs = mixers.backbone_class(name)(ablation.CHANNELS, depths, input_shape=(48, 48, 3))
        assert others(ours) == others(theirs)
        assert ours.output.shape == theirs.output.shape


def test_self_attention_is_the_formula(mixers):
    layer = mixers.SelfAttention()
    x = features(2, 3, 4, 48)
    layer(x)
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    kernel = array(layer.query_key_value.kernel)[0, 0]
    table = array(layer.bias)
    mixed = np.zeros((2, 12, 48))
    for image in range(2):
        tokens = x[image].reshape(12, 48) @ kernel + array(layer.query_key_value.bias)
        for head in range(2):
            query, key, value = (
                tokens[:, part * 48 + head * 24 : part * 48 + (head + 1) * 24] for part in range(3)
            )
            for one in range(12):
                scores = np.array(
                    [
                        query[one] @ key[other] / np.sqrt(24)
                        # One row of the table for each offset: 5 down and up, 7 to the sides.
                        + table[(one // 4 - other // 4 + 2) * 7 + one % 4 - other % 4 + 3, head]
                        for other in range(12)
                    ]
                )
                weights = np.exp(scores - scores.max())
                row = weights / weights.sum() @ value
                mixed[image, one, head * 24 : (head + 1) * 24] = row
    expected = mixed @ array(layer.project.kernel)[0, 0] + array(layer.project.bias)
    np.testing.assert_allclose(array(layer(x)).reshape(2, 12, 48), expected, atol=1e-4)


def test_pooling_takes_the_mean_of_the_neighbors(mixers):
    ramp = np.tile(np.arange(6, dtype="float32")[None, :, None, None] ** 2, (1, 1, 6, 2))
    found = array(mixers.PoolingMixer()(ramp))
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], 2 / 3, atol=1e-4)


def test_a_contestant_learns_by_the_recipe(ablation, tmp_path):
    ablation.decode("digits", 32, tmp_path / "decoded.npz")
    train, val = ablation.opened(tmp_path / "decoded.npz")
    assert (len(train), len(val)) == (1259, 179)
    recipe = Recipe(epochs=2, batch_size=128, image_size=32, learning_rate=3e-3)
    model = tiny_classifier(len(train.class_names), input_shape=(32, 32, 3))
    losses, seconds = ablation.fit(model, recipe, train)
    assert losses[1] < losses[0]
    assert seconds > 0


def test_the_table_has_means_and_deviations(ablation):
    results = [
        {"contestant": "dma", "seed": seed, "parameters": 2e6, "multiply_accumulates": 2e7,
         "top1": top1, "seconds": 60.0}
        for seed, top1 in enumerate((0.5, 0.6, 0.7))
    ]  # fmt: skip
    (line,) = ablation.summarized(results)
    assert (line["mean"], line["deviation"]) == pytest.approx((0.6, 0.1))
    (row,) = ablation.rows_of([line])
    assert row[3:] == ["60.00 ± 10.00", "3", "1.0"]
    assert len(row) == len(ablation.HEADS)


@pytest.mark.slow
@pytest.mark.parametrize("with_cache", [False, True])
def test_a_run_that_is_there_is_not_trained_again(with_cache, tmp_path):
    command = [
        sys.executable, FOLDER / "ablation.py", "--data", "digits", "--epochs", "1",
        "--image-size", "32", "--seeds", "1", "--contestants", "pooling", "--jobs", "1",
        "--output", tmp_path,
    ]  # fmt: skip
    if with_cache:
        command += ["--cache", tmp_path / "cache", "--images-per-epoch", "640"]
    changed = []
    for _ in range(2):
        subprocess.run([str(part) for part in command], check=True, timeout=600)
        (run,) = (tmp_path / "runs").glob("*")
        changed.append(run.stat().st_mtime_ns)
    assert changed[0] == changed[1]
    result = json.loads(run.read_text())
    assert result["settings"].get("cached", False) == with_cache
    assert 0.1 < result["top1"] <= 1
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "average pooling" in (tmp_path / "results.md").read_text()
