"""One loader for every form a trained classifier is saved in."""

import keras
import numpy as np
import pytest
from helpers import array, images, randomize, tiny_backbone, tiny_classifier

import dmformer_keras
from dmformer_keras import DMFormerError, fuse
from dmformer_keras.training import image_size_of, load_classifier, load_trained

# `suites.py` loads what each backend has saved.
pytestmark = pytest.mark.once_under_torch


@pytest.fixture(scope="module")
def model():
    model = tiny_classifier(3, class_names=["a", "b", "c"])
    randomize(model)
    return model


def test_folder_and_keras_file_give_the_model_back(model, tmp_path):
    model.save_to_preset(tmp_path / "preset")
    model.save(tmp_path / "model.keras")
    batch = images(2, 64, 64, 3)
    expected = array(model(batch))
    for name in ("preset", "model.keras"):
        loaded = load_classifier(tmp_path / name)
        np.testing.assert_allclose(array(loaded(batch)), expected, atol=1e-5)
        assert loaded.class_names == ["a", "b", "c"]


def test_a_folder_takes_another_image_size_and_a_file_does_not(model, tmp_path):
    model.save_to_preset(tmp_path / "preset")
    model.save(tmp_path / "model.keras")
    assert image_size_of(load_classifier(tmp_path / "preset", 96)) == (96, 96)
    assert image_size_of(load_classifier(tmp_path / "preset", (64, 96))) == (64, 96)
    assert image_size_of(load_classifier(tmp_path / "model.keras", 64)) == (64, 64)
    with pytest.raises(DMFormerError, match="own size"):
        load_classifier(tmp_path / "model.keras", 96)


def test_what_is_no_trained_classifier_is_said_to_be_none(tmp_path):
    with pytest.raises(DMFormerError, match="without weights"):
        load_classifier("dmformer_n")
    tiny_backbone().save_to_preset(tmp_path / "backbone")
    with pytest.raises(DMFormerError, match="head"):
        load_classifier(tmp_path / "backbone")
    with pytest.raises(DMFormerError, match="no file"):
        load_classifier(tmp_path / "absent.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(DMFormerError, match="Sequential"):
        load_classifier(tmp_path / "other.keras")


@pytest.mark.parametrize("name", ["model.weights.h5", "task.weights.h5"])
def test_truncated_weights_are_an_error(model, tmp_path, name):
    model.save_to_preset(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DMFormerError, match="altered or incomplete"):
        load_classifier(tmp_path)


def test_a_truncated_keras_file_is_an_error(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DMFormerError, match="its end is missing"):
        load_classifier(path)


def test_a_fused_backbone_is_no_trained_model(tmp_path):
    fuse(tiny_backbone()).save(tmp_path / "backbone.keras")
    with pytest.raises(DMFormerError, match="was expected"):
        load_trained(tmp_path / "backbone.keras")


def test_everything_that_holds_a_trained_model_is_loaded(model, tmp_path):
    batch = images(2, 64, 64, 3)
    expected = array(model(batch))
    model.save_to_preset(tmp_path / "preset")
    model.save(tmp_path / "model.keras")
    fuse(model).save(tmp_path / "fused.keras")
    for name in ("preset", "model.keras", "fused.keras"):
        loaded = dmformer_keras.load(tmp_path / name)
        np.testing.assert_allclose(array(loaded(batch)), expected, atol=1e-4)
    assert dmformer_keras.load(str(tmp_path / "preset"), 96).input.shape == (None, 96, 96, 3)
    assert dmformer_keras.load("dmformer_n_imagenette").num_classes == 10


@pytest.mark.backend_independent
def test_an_exported_file_is_loaded_and_classifies(model, tmp_path, unmeasured):
    pytest.importorskip("tensorflow")
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "model.tflite"
    dmformer_keras.export.to_tflite(model, path)
    loaded = dmformer_keras.load(path)
    image = images(1, 90, 70, 3)[0].astype("uint8")
    expected, found = (dict(dmformer_keras.classify(one, image)) for one in (model, loaded))
    assert found == pytest.approx(expected, abs=1e-4)
    with pytest.raises(DMFormerError, match="leave out the image size"):
        dmformer_keras.load(path, 96)


def test_what_is_nothing_to_load_is_refused(tmp_path):
    for what in ("", None, 3, tiny_classifier(3)):
        with pytest.raises(DMFormerError, match="must be given by"):
            dmformer_keras.load(what)
    with pytest.raises(DMFormerError, match="There is no preset"):
        dmformer_keras.load(tmp_path / "absent")
    with pytest.raises(DMFormerError, match="without weights"):
        dmformer_keras.load("dmformer_s")


def test_a_model_that_was_trained_in_16_bits_computes_in_32_where_that_is_asked_for(tmp_path):
    tiny_classifier(dtype="mixed_bfloat16").save_to_preset(tmp_path / "half")
    assert load_trained(tmp_path / "half").backbone.compute_dtype == "bfloat16"
    whole = load_trained(tmp_path / "half", dtype="float32")
    assert whole.backbone.compute_dtype == whole.head.layers[-1].compute_dtype == "float32"
