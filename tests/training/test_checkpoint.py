"""A checkpoint brings back everything the next step depends on."""

import keras
import numpy as np
import pytest
from helpers import TO_TRAIN, array, images, tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.training import Recipe, checkpoint
from dmformer_keras.training.optimization import compile_for


def built(seed):
    keras.utils.set_random_seed(seed)
    model = tiny_classifier(3, input_shape=(32, 32, 3), stochastic_depth=0.4, **TO_TRAIN)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compile_for(Recipe(epochs=2, warmup_epochs=0), model, 4, loss, [])
    model.run_eagerly = True  # tracing takes longer than these few steps
    return model


def step(model):
    model.train_on_batch(images(8, 32, 32, 3), np.arange(8) % 3)


@pytest.mark.slow(on=["jax"])  # compiles for a minute on a CPU
def test_the_next_step_is_the_same_after_restoring(tmp_path):
    model = built(seed=0)
    step(model)
    (tmp_path / "checkpoint").mkdir()
    state = checkpoint.RunState({}, history=[{"epoch": 1}])
    checkpoint.save_epoch(tmp_path, state, model)
    other = built(seed=1)
    checkpoint.restore_epoch(tmp_path, checkpoint.read_state(tmp_path), other)
    step(model)
    step(other)
    both = zip(
        model.variables + model.optimizer.variables,
        other.variables + other.optimizer.variables,
        strict=True,
    )
    for one, restored in both:
        np.testing.assert_allclose(array(one), array(restored), atol=1e-6, err_msg=one.path)


@pytest.mark.once_under_torch
def test_only_the_last_epoch_is_kept(tmp_path):
    model = built(seed=0)
    (tmp_path / "checkpoint").mkdir()
    state = checkpoint.RunState({})
    for epoch in (1, 2):
        state.history.append({"epoch": epoch})
        checkpoint.save_epoch(tmp_path, state, model)
    names = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert names == ["epoch_0002.keras", "state.json"]


@pytest.mark.once_under_torch
def test_damage_is_stated(tmp_path):
    model = built(seed=0)
    (tmp_path / "checkpoint").mkdir()
    state = checkpoint.RunState({}, history=[{"epoch": 1}])
    checkpoint.save_epoch(tmp_path, state, model)
    path = tmp_path / "checkpoint" / state.weights_file
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DMFormerError, match="cannot be loaded"):
        checkpoint.restore_epoch(tmp_path, state, model)
    (tmp_path / "checkpoint" / "state.json").write_text("{")
    with pytest.raises(DMFormerError, match="cannot be read"):
        checkpoint.read_state(tmp_path)


@pytest.mark.once_under_torch
def test_a_run_that_ended_before_its_first_word_is_told_from_others(tmp_path):
    assert not checkpoint.is_untouched(tmp_path / "absent")
    assert checkpoint.is_untouched(tmp_path)
    folder = tmp_path / "run" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / ".writing-state.json").write_text("{")
    assert checkpoint.is_untouched(tmp_path / "run")
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert not checkpoint.is_untouched(tmp_path / "run")
