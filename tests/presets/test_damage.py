"""Files that are damaged, or hold what no model is made of: one sentence with the file's name."""

import json
import os
import shutil
import zipfile

import keras
import numpy as np
import pytest
from helpers import TINIEST, array, randomize, stated

import dmformer_keras
from dmformer_keras import DMFormerBackbone, DMFormerClassifier, DMFormerError, presets
from dmformer_keras.presets.weights_files import check_weights
from dmformer_keras.training import checkpoint

h5py = pytest.importorskip("h5py")
hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as some  # noqa: E402

pytestmark = pytest.mark.once_under_torch

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A classifier, its preset without checksums, and its `.keras` file."""
    folder = tmp_path_factory.mktemp("whole")
    backbone = DMFormerBackbone(**TINIEST, input_shape=(32, 32, 3))
    model = randomize(DMFormerClassifier(backbone, 3, class_names=["a", "b", "c"]))
    model.save_to_preset(folder / "preset")
    (folder / "preset" / "metadata.json").unlink()
    model.save(folder / "model.keras")
    return model, folder


def changed(content, places, end):
    content = bytearray(content)
    for place, bit in places:
        content[place % len(content)] ^= 1 << bit
    return bytes(content if end is None else content[: end % len(content)])


DAMAGE = (
    some.lists(some.tuples(some.integers(0, 2**24), some.integers(0, 7)), min_size=1, max_size=9),
    some.one_of(some.none(), some.integers(0, 2**24)),
)


def set_values(path, change):
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        values = file[names[0]][()]
        del file[names[0]]
        change(file, names[0], values)


def put(function):
    return lambda file, name, values: file.create_dataset(name, data=function(values))


def with_one(number):
    def changed(values):
        values = values.copy()
        values.flat[-1] = number
        return values

    return changed


def link(file, name, values):
    file[name] = h5py.ExternalLink("other.h5", "/values")


def loop(file, name, values):
    file[name] = file["/"]


def huge(file, name, values):
    file.create_dataset(name, (10**6, 10**6), "float32", chunks=(1000, 1000))


@pytest.mark.parametrize("file", ["model.weights.h5", "task.weights.h5"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(with_one(np.nan)), "no finite numbers"),
        (put(with_one(-np.inf)), "no finite numbers"),
        (put(lambda values: with_one(1e300)(values.astype("float64"))), "no finite numbers"),
        (put(lambda values: values.astype("complex64")), "of type complex64"),
        (put(lambda values: np.full(values.shape, b"x")), "of type |S1".replace("|", r"\|")),
        (link, "lead to another place"),
        (huge, "far more values"),
        (loop, "do not fit|damaged"),
        (lambda *_: None, "do not fit"),
    ],
    ids=["nan", "inf", "over float32", "complex", "text", "link", "huge", "loop", "missing"],
)
def test_values_that_no_model_is_made_of(whole, tmp_path, file, change, message):
    folder = shutil.copytree(whole[1] / "preset", tmp_path / "preset")
    set_values(folder / file, change)
    with pytest.raises(DMFormerError, match=message) as caught:
        DMFormerClassifier.from_preset(folder)
    assert file in str(caught.value)
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize(("number", "dtype"), [(np.nan, "float32"), (1j, "complex64")])
def test_keras_files_are_looked_at_too(whole, tmp_path, number, dtype):
    path, weights = tmp_path / "model.keras", tmp_path / "w.h5"
    with zipfile.ZipFile(whole[1] / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    weights.write_bytes(parts["model.weights.h5"])
    set_values(weights, put(lambda values: with_one(number)(values.astype(dtype))))
    parts["model.weights.h5"] = weights.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(DMFormerError, match=r"model\.keras"):
        dmformer_keras.load(path)


@hypothesis.given(*DAMAGE)
def test_damaged_weights_are_read_or_stated(whole, tmp_path_factory, places, end):
    model, folder = whole
    path = tmp_path_factory.getbasetemp() / "damaged.weights.h5"
    content = (folder / "preset" / "task.weights.h5").read_bytes()
    path.write_bytes(changed(content, places, end))
    preset = presets.read_preset(folder / "preset")

    def read():
        from dmformer_keras.presets import loading

        loading._load_weights_file(model.head, path, preset)
        assert all(np.isfinite(array(weight)).all() for weight in model.head.weights)

    stated(read, path.name)


@hypothesis.given(some.sampled_from(["config.json", "task.json", "metadata.json"]), *DAMAGE)
def test_damaged_descriptions_are_read_or_stated(whole, tmp_path_factory, file, places, end):
    model = whole[0]
    copy = tmp_path_factory.getbasetemp() / "described"
    if not copy.is_dir():
        model.save_to_preset(copy)
    content = (copy / file).read_bytes()
    try:
        (copy / file).write_bytes(changed(content, places, end))
        stated(lambda: presets.read_preset(copy), "described")
    finally:
        (copy / file).write_bytes(content)


def test_deep_json_is_stated(whole, tmp_path):
    folder = shutil.copytree(whole[1] / "preset", tmp_path / "preset")
    for name in ("config.json", "task.json", "metadata.json"):
        before = (folder / name).read_bytes() if (folder / name).is_file() else None
        (folder / name).write_text(DEEP)
        assert stated(lambda: DMFormerClassifier.from_preset(folder), name)
        (folder / name).write_bytes(before) if before else (folder / name).unlink()
    with zipfile.ZipFile(tmp_path / "deep.keras", "w") as archive:
        archive.writestr("config.json", DEEP)
        archive.writestr("metadata.json", "{}")
    assert stated(lambda: dmformer_keras.load(tmp_path / "deep.keras"), "deep.keras")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes")
@pytest.mark.parametrize("name", ["config.json", "task.json", "model.weights.h5"])
def test_pipes_are_not_waited_for(whole, tmp_path, name):
    folder = shutil.copytree(whole[1] / "preset", tmp_path / "preset")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    if name == "task.json":  # what is no file is not there
        assert presets.read_preset(folder).task is None
    else:
        assert stated(lambda: DMFormerBackbone.from_preset(folder, load_weights=True), str(folder))


STATE = {
    "identity": {"recipe": {"epochs": 1}},
    "history": [{"epoch": 1, "loss": 0.5}],
    "weights_file": "epoch_0001.keras",
    "seeds": [[1, 2]],
    "begun": {"earlier": []},
}


WRONG = [
    {**STATE, name: value}
    for name in STATE
    for value in (3, "../x", [3], {"a": 3})
    if not (name == "seeds" and value == [3])
]
WRONG += [
    {**STATE, "history": [{"epoch": 2}]},
    {**STATE, "begun": {"earlier": 3}},
    {"unknown": 1},
    [],
    3,
]


@pytest.mark.parametrize("content", [DEEP, *map(json.dumps, WRONG)], ids=range(len(WRONG) + 1))
def test_states_of_runs_are_read_or_stated(tmp_path, content):
    (tmp_path / "checkpoint").mkdir()
    path = tmp_path / "checkpoint" / "state.json"
    path.write_text(json.dumps(STATE))
    assert checkpoint.read_state(tmp_path).epoch == 1
    path.write_text(content)
    if not stated(lambda: checkpoint.read_state(tmp_path), "state.json"):
        assert json.loads(content)["begun"] == {"a": 3}  # a note more


@hypothesis.given(*DAMAGE)
def test_damaged_checkpoints_are_read_or_stated(whole, tmp_path_factory, places, end):
    model, folder = whole
    run = tmp_path_factory.getbasetemp() / "run"
    (run / "checkpoint").mkdir(parents=True, exist_ok=True)
    content = (folder / "model.keras").read_bytes()
    # The table at the end, where the archive's parts are named, more often than the rest.
    places = [(place if index % 2 else -1 - place % 600, bit)
              for index, (place, bit) in enumerate(places)]  # fmt: skip
    (run / "checkpoint" / "epoch_0001.keras").write_bytes(changed(content, places, end))
    state = checkpoint.RunState({}, [{"epoch": 1}], "epoch_0001.keras", [])
    stated(lambda: checkpoint.restore_epoch(run, state, model), "epoch_0001.keras")


def test_kernels_that_half_precision_cannot_hold_stay_as_they_are(tmp_path):
    backbone = DMFormerBackbone(**TINIEST, input_shape=(32, 32, 3))
    model = randomize(DMFormerClassifier(backbone, 3))
    kernel = model.head.get_layer("logits").kernel
    kernel.assign(keras.ops.ones_like(kernel) * 1e5)
    model.save_to_preset(tmp_path, half_precision=True)
    again = DMFormerClassifier.from_preset(tmp_path)
    np.testing.assert_array_equal(array(again.head.get_layer("logits").kernel), array(kernel))
    with h5py.File(tmp_path / "model.weights.h5") as file:
        types = set()
        file.visititems(lambda name, item: types.add(str(getattr(item, "dtype", ""))))
    assert "float16" in types


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80])
def test_bfloat16_is_looked_at_too(tmp_path, bits):
    broken = np.array([0x3F80, bits], np.uint16).view("V2")
    for content, message in ((broken, "no finite"), (np.zeros(2, "complex64"), "type complex64")):
        with h5py.File(tmp_path / "w.h5", "w") as file:
            file["layers/a/vars/0"] = content
            file["layers/a/vars/0"].attrs["dtype"] = "bfloat16"
        with pytest.raises(DMFormerError, match=message):
            check_weights(tmp_path / "w.h5", tmp_path / "w.h5", 9)


def test_weights_in_other_types_are_taken(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/a/vars/0"] = np.zeros(3, "float16")
        file["layers/b/vars/0"] = np.zeros(3, "int32")
        file["layers/c/vars/0"] = np.zeros(3, np.dtype("V2"))
        file["layers/c/vars/0"].attrs["dtype"] = "bfloat16"
        file["optimizer/vars/0"] = np.full(3, np.nan)
    check_weights(tmp_path / "w.h5", tmp_path / "w.h5", 9)
