import json
import os

import numpy as np
import pytest
from helpers import array, images, randomize, tiny_backbone, tiny_classifier

from dmformer_keras import DMFormerBackbone, DMFormerClassifier, DMFormerError, DMFormerN, presets
from dmformer_keras.presets import finding, saving
from dmformer_keras.presets.folder import sha256

# Files, which `test_backends.py` moves between backends, and `suites.py` has for each.
pytestmark = pytest.mark.once_under_torch


@pytest.fixture
def saved(tmp_path):
    model = randomize(tiny_classifier(class_names=["a", "b", "c", "d", "e"]))
    model.save_to_preset(tmp_path / "preset", description="made for a test")
    return model, tmp_path / "preset"


def grey_images(count, size, channels):
    return np.repeat(images(count, size, size, 1), channels, axis=-1)


def test_built_in_presets_are_listed_and_built():
    assert {f"dmformer_{letter}" for letter in "ntsbl"} <= set(DMFormerBackbone.presets)
    backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(64, 96, 3))
    assert backbone.output.shape == (None, 2, 3, 192)


def test_backbone_folder_round_trip(tmp_path):
    backbone = randomize(tiny_backbone(layer_scale=0.3, output_stride=16))
    backbone.save_to_preset(tmp_path)
    again = DMFormerBackbone.from_preset(tmp_path)
    assert again.get_config() == backbone.get_config()
    x = images(1, 64, 64, 3)
    np.testing.assert_array_equal(array(again(x)), array(backbone(x)))


def test_classifier_folder_round_trip(saved):
    model, folder = saved
    again = DMFormerClassifier.from_preset(folder)
    assert again.class_names == model.class_names
    x = images(1, 64, 64, 3)
    np.testing.assert_array_equal(array(again(x)), array(model(x)))
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["parameters"] == model.count_params()
    assert metadata["description"] == "made for a test"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_backbone_of_a_classifier_folder(saved):
    model, folder = saved
    x = images(1, 64, 64, 3)
    backbone = DMFormerBackbone.from_preset(folder)
    np.testing.assert_array_equal(array(backbone(x)), array(model.backbone(x)))


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_replicated_grey_gives_the_same_output_with_any_number_of_channels(saved, channels):
    _, folder = saved
    rgb = DMFormerBackbone.from_preset(folder)
    other = DMFormerBackbone.from_preset(folder, input_shape=(64, 64, channels))
    expected = array(rgb(grey_images(2, 64, 3)))
    np.testing.assert_allclose(
        array(other(grey_images(2, 64, channels))), expected, atol=1e-4, rtol=1e-4
    )


def test_adapted_kernel_keeps_colors_apart():
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 4))
    adapted = presets.adapt_input_channels(kernel, 4)
    np.testing.assert_allclose(adapted[:, :, 1:3], kernel[:, :, 1:3])
    np.testing.assert_allclose(adapted[:, :, 0] + adapted[:, :, 3], kernel[:, :, 0])


def test_other_size_channels_classes_and_stride_all_at_once(saved):
    model, folder = saved
    other = DMFormerClassifier.from_preset(
        folder, input_shape=(40, None, 1), num_classes=3, output_stride=16
    )
    assert other.output.shape == (None, 3)
    assert other.class_names is None
    same = DMFormerClassifier.from_preset(folder, input_shape=(None, None, 1), output_stride=32)
    x = images(1, 64, 64, 1)
    np.testing.assert_allclose(
        array(same(x)), array(model(np.repeat(x, 3, axis=-1))), atol=1e-4, rtol=1e-4
    )
    for source, target in zip(model.backbone.weights, other.backbone.weights, strict=True):
        if source.shape == target.shape:
            np.testing.assert_array_equal(array(source), array(target))


def test_variant_functions_take_a_folder_of_weights(tmp_path):
    model = randomize(DMFormerN(input_shape=(64, 64, 3), num_classes=4))
    model.save_to_preset(tmp_path)
    x = images(1, 64, 64, 3)
    again = DMFormerN(weights=tmp_path)
    np.testing.assert_array_equal(array(again(x)), array(model(x)))
    assert DMFormerN(weights=str(tmp_path), num_classes=9).output.shape == (None, 9)


def test_data_format_override_turns_the_input_shape(tmp_path):
    tiny_backbone(input_shape=(64, 96, 3)).save_to_preset(tmp_path)
    first = DMFormerBackbone.from_preset(tmp_path, data_format="channels_first")
    assert first.input.shape == (None, 3, 64, 96)


def test_weights_can_be_left_out_or_demanded(saved):
    model, folder = saved
    fresh = DMFormerBackbone.from_preset(folder, load_weights=False)
    x = images(1, 64, 64, 3)
    assert np.abs(array(fresh(x)) - array(model.backbone(x))).max() > 1e-3
    with pytest.raises(DMFormerError, match="has no weights"):
        DMFormerBackbone.from_preset("dmformer_n", load_weights=True)


def test_half_precision_weights_load(saved):
    import h5py

    _, folder = saved
    path = folder / "model.weights.h5"
    expected = array(DMFormerBackbone.from_preset(folder)(images(1, 64, 64, 3)))
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        for name in names:
            if file[name].dtype == "float32":
                value = file[name][()].astype("float16")
                del file[name]
                file[name] = value
    write_checksums(folder)
    found = array(DMFormerBackbone.from_preset(folder)(images(1, 64, 64, 3)))
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def write_checksums(folder):
    metadata = json.loads((folder / "metadata.json").read_text())
    for name in metadata["files"]:
        metadata["files"][name]["sha256"] = sha256(folder / name)
    (folder / "metadata.json").write_text(json.dumps(metadata))


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(DMFormerError, match="did you mean 'dmformer_s'"):
        DMFormerBackbone.from_preset("dmfomer_s")


def test_folder_without_config_is_named(tmp_path):
    with pytest.raises(DMFormerError, match=r"is no preset: it has no config\.json"):
        DMFormerBackbone.from_preset(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
@pytest.mark.parametrize("file", ["model.weights.h5", "task.weights.h5"])
def test_damaged_weights_are_refused(saved, damage, file):
    _, folder = saved
    content = bytearray((folder / file).read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[-5] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(DMFormerError, match="altered or incomplete"):
        DMFormerClassifier.from_preset(folder)


@pytest.mark.parametrize("file", ["model.weights.h5", "task.weights.h5"])
def test_missing_weights_are_refused(saved, file):
    _, folder = saved
    (folder / file).unlink()
    with pytest.raises(DMFormerError, match="is missing, though"):
        DMFormerClassifier.from_preset(folder)


@pytest.mark.parametrize("files", [[], "x", {"model.weights.h5": {}}, {"a": 3}], ids=str)
def test_damaged_metadata_is_named(saved, files):
    _, folder = saved
    (folder / "metadata.json").write_text(json.dumps({"files": files}))
    with pytest.raises(DMFormerError, match="is damaged"):
        DMFormerBackbone.from_preset(folder)


def test_damaged_task_is_named(saved):
    _, folder = saved
    (folder / "task.json").write_text('{"config": "x"}')
    with pytest.raises(DMFormerError, match="no config of a task"):
        DMFormerClassifier.from_preset(folder)


def test_metadata_that_is_no_json_is_refused(tmp_path):
    with pytest.raises(DMFormerError, match="cannot be stored as JSON"):
        tiny_backbone().save_to_preset(tmp_path / "new", description={1, 2})
    assert not (tmp_path / "new").exists()


def test_truncated_weights_are_refused_even_without_a_checksum(saved):
    _, folder = saved
    (folder / "metadata.json").unlink()
    path = folder / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DMFormerError, match="are damaged or no HDF5 file"):
        DMFormerBackbone.from_preset(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "holds no model"),
        ('{"class_name": "ResNet", "config": {}}', "describes a 'ResNet'"),
        ('{"class_name": "DMFormerBackbone", "config": {"depht": 3}}', "depht"),
        ('{"class_name": "EvilDMFormerBackbone", "config": {}}', "describes a 'Evil"),
        ('{"class_name": "DMFormerBackbone", "config": {"mlp_ratio": "4"}}', "mlp_ratio"),
        (
            '{"class_name": "DMFormerBackbone", "config": {"dtype": {"class_name": "Lambda"}}}',
            "no plain policy",
        ),
        ('{"class_name": "DMFormerBackbone", "config": {"dtype": "nope"}}', "dtype must be"),
    ],
)
def test_broken_configs_are_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DMFormerError, match=message):
        DMFormerBackbone.from_preset(tmp_path)


def test_overrides_that_change_the_architecture_are_refused(saved):
    _, folder = saved
    with pytest.raises(DMFormerError, match="do not fit"):
        DMFormerBackbone.from_preset(folder, depths=(1, 1, 1, 1))
    with pytest.raises(DMFormerError, match="do not fit use_gate=False"):
        DMFormerBackbone.from_preset(folder, use_gate=False)
    with pytest.raises(DMFormerError, match="do not fit"):
        DMFormerBackbone.from_preset(folder, layer_scale=0.1)
    with pytest.raises(DMFormerError, match="cannot be built"):
        DMFormerBackbone.from_preset(folder, color=1)


def test_folder_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DMFormerError, match="cannot be written"):
        tiny_backbone().save_to_preset(tmp_path / "file" / "preset")
    assert os.listdir(tmp_path) == ["file"]


def test_saving_that_fails_keeps_the_preset_that_was_there(saved, monkeypatch):
    model, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(saving, "sha256", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_to_preset(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_backbone_saved_over_a_classifier_leaves_no_stale_head(saved):
    _, folder = saved
    tiny_backbone().save_to_preset(folder)
    assert DMFormerClassifier.from_preset(folder).num_classes == 1000


def test_shipped_presets_are_found_by_name(saved, tmp_path, monkeypatch):
    model, folder = saved
    (tmp_path / "weights").mkdir()
    folder.rename(tmp_path / "weights" / "dmformer_test")
    monkeypatch.setattr(finding, "weights_folder", lambda: tmp_path / "weights")
    assert DMFormerBackbone.presets["dmformer_test"]["description"] == "made for a test"
    x = images(1, 64, 64, 3)
    again = DMFormerClassifier.from_preset("dmformer_test")
    np.testing.assert_array_equal(array(again(x)), array(model(x)))


def test_weights_folder_of_a_checkout_exists():
    assert (presets.weights_folder() / "README.md").is_file()
