"""Keras trains on these batches, on the backend of the day."""

import keras
import numpy as np
import pytest
from test_pipelines import batches, training, training_masks

from dmformer_keras.data import IGNORED_LABEL, to_py_dataset, to_tf_dataset


def test_fit_trains_on_masks_and_shapes_are_known(masked):
    """On the backend of the day, by either way."""
    assert training_masks(to_tf_dataset, masked).element_spec[1].shape == (4, 16, 24)
    assert to_tf_dataset(masked, 16, 4).element_spec[1].shape == (None, 16, 16)
    model = keras.Sequential([keras.layers.Dense(5)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED_LABEL)
    model.compile("adam", loss)
    for make in (to_tf_dataset, to_py_dataset):
        history = model.fit(training_masks(make, masked), steps_per_epoch=2, verbose=0)
        assert np.isfinite(history.history["loss"]).all()


def tiny_model(images):
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2, "tanh")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
    model.build(images.shape)
    kernel = np.random.default_rng(0).normal(0, 0.01, model.get_weights()[0].shape)
    model.set_weights([kernel, np.zeros(2)])
    return model


@pytest.mark.parametrize("make", [to_tf_dataset, to_py_dataset])
def test_fit_trains_on_exactly_these_batches(source, make):
    """On the backend of the day: no batch lost to building the model, none twice."""
    dataset = training(make, source, first_epoch=1)
    expected = batches(training(to_py_dataset, source, first_epoch=1), 10)
    model, twin = (tiny_model(expected[0][0]) for _ in range(2))
    validation = make(source, (16, 24), 5)
    history = model.fit(
        dataset,
        steps_per_epoch=5,
        initial_epoch=1,
        epochs=3,
        verbose=0,
        validation_data=validation,
    )
    for images, labels in expected:
        twin.train_on_batch(images, labels)
    assert len(history.history["val_accuracy"]) == 2
    for trained, wanted in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(trained, wanted, rtol=1e-4, atol=1e-5)
    assert model.predict(validation, verbose=0).shape == (22, 2)
