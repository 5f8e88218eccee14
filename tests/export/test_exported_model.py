import numpy as np
import pytest
from helpers import TINIEST, images, randomize, tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.export import is_exported, load_exported, to_tflite

pytest.importorskip("tensorflow", reason="TFLite conversion needs TensorFlow")
pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")
pytestmark = pytest.mark.backend_independent


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of a batch of two images."""
    model = randomize(tiny_classifier(class_names=list("abcde"), **TINIEST))
    folder = tmp_path_factory.mktemp("exported")
    return to_tflite(model, folder / "model.tflite", batch_size=2, verify=False)


def test_any_number_of_images_through_a_fixed_batch(path):
    exported = load_exported(path, threads=1)
    x = images(5, 64, 64, 3)
    outputs = exported.predict(x)
    assert outputs.shape == (5, 5)
    for number in range(5):
        alone = exported.predict_on_batch(x[number : number + 1])[0]
        np.testing.assert_array_equal(alone, outputs[number])


def test_what_it_knows_of_its_model(path):
    exported = load_exported(path)
    assert exported.format == "TFLite"
    assert exported.class_names == list("abcde")
    assert exported.class_colors is None
    assert exported.activation == "linear"
    assert exported.num_classes == 5
    assert exported.input.shape == (2, 64, 64, 3)
    assert exported.output.shape == (2, 5)


def test_a_file_of_scaled_values_takes_pixels_if_asked(path, tmp_path):
    exported = load_exported(path)
    assert exported.taking_pixels() is exported
    model = randomize(
        tiny_classifier(include_rescaling=False, class_names=list("abcde"), **TINIEST)
    )
    path = to_tflite(model, tmp_path / "scaled.tflite", verify=False)
    scaled, pixels = load_exported(path), load_exported(path).taking_pixels()
    x = images(3, 64, 64, 3)
    np.testing.assert_array_equal(pixels.predict(x), scaled.predict((x - 127.5) / 127.5))
    assert pixels.class_names == list("abcde")
    assert pixels.operators() == scaled.operators()
    assert pixels.taking_pixels() is pixels


def test_a_file_of_another_origin_has_no_description(path, tmp_path):
    content = path.read_bytes()
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(content[: content.rindex(b"PK\x03\x04", 0, content.rindex(b"PK\x03\x04"))])
    exported = load_exported(bare)
    assert exported.description == {}
    assert exported.class_names is None
    x = images(2, 64, 64, 3)
    np.testing.assert_array_equal(exported.predict(x), load_exported(path).predict(x))


@pytest.mark.parametrize("lost", [1, 20, 200])
def test_a_file_whose_end_is_cut_off_is_not_taken_for_one_of_another_origin(path, tmp_path, lost):
    """It would run, with numbers for class names."""
    (tmp_path / "cut.tflite").write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(DMFormerError, match=r"cut.tflite .*model.json is damaged or cut off"):
        load_exported(tmp_path / "cut.tflite")


def test_what_a_runtime_raises_is_one_sentence(path, monkeypatch):
    exported = load_exported(path)

    def fail(images):
        raise RuntimeError("Input tensor 12 lacks data")

    monkeypatch.setattr(exported._runner, "run", fail)
    with pytest.raises(DMFormerError, match=r"model.tflite does not run on .*tensor 12 .*damaged"):
        exported.predict(images(2, 64, 64, 3))


@pytest.mark.parametrize("shape", [(0, 64, 64, 3), (2, 32, 64, 3), (64, 64, 3), (2, 64, 64, 1)])
def test_images_that_do_not_fit_are_named(path, shape):
    with pytest.raises(DMFormerError, match="one or more images of shape"):
        load_exported(path).predict_on_batch(np.zeros(shape))


def test_what_is_no_exported_file_is_named(tmp_path, path):
    for name in ("absent.tflite", "absent.onnx", "absent"):
        with pytest.raises(DMFormerError, match="There is no file"):
            load_exported(tmp_path / name)
    for name in ("broken.tflite", "broken.onnx", "broken.xml"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(DMFormerError, match="cannot be run"):
            load_exported(tmp_path / name)
    (tmp_path / "model.keras").write_bytes(b"")
    for name in ("model.keras", ""):
        with pytest.raises(DMFormerError, match="is no exported model"):
            load_exported(tmp_path / name)
    with pytest.raises(DMFormerError, match="threads must be"):
        load_exported(path, threads=0)


def test_which_paths_look_like_exported_files(tmp_path):
    assert is_exported("a.tflite")
    assert is_exported("a.onnx")
    assert is_exported("a.xml")
    assert not is_exported(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert is_exported(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        [], 3, {"class_names": 5}, {"class_names": [5]}, {"input": []}, {"input": {"std": "1"}},
        {"output": {"activation": None}}, {"class_colors": [[1, 2]]},
    ],
    ids=str,
)  # fmt: skip
def test_descriptions_of_other_kinds_are_refused(path, tmp_path, change, monkeypatch):
    from dmformer_keras.export import runners

    known = load_exported(path).description
    told = {**known, **change} if isinstance(change, dict) else change
    monkeypatch.setattr(runners, "_description_in_zip", lambda path: told)
    with pytest.raises(DMFormerError, match=r"model\.tflite cannot be run .*of another kind"):
        load_exported(path)
