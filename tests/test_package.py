"""What the package promises as a whole: a light import, true examples, a wheel that is complete."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest
from helpers import BACKENDS, run_python

import dmformer_keras

ROOT = Path(__file__).parent.parent
HEAVY = ("tensorflow", "torch", "jax", "keras_cv", "keras_hub", "tensorflow_datasets", "sklearn")


def module_names():
    names = [
        module.name
        for module in pkgutil.walk_packages(dmformer_keras.__path__, "dmformer_keras.")
        # Those two are imported by keras_cv's and keras_hub's own tests.
        if not module.name.startswith("dmformer_keras.integrations.")
        and not module.name.endswith("__main__")
    ]
    return ["dmformer_keras", *names]


@pytest.mark.once_under_torch
@pytest.mark.parametrize("name", module_names())
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(
        importlib.import_module(name), extraglobs={"keras": keras}, optionflags=doctest.ELLIPSIS
    )
    assert result.failed == 0


def test_import_loads_nothing_heavy_and_costs_little():
    code = (
        "import sys, time, keras\n"
        f"before = {{name for name in {HEAVY!r} if name in sys.modules}}\n"
        "start = time.process_time()\n"
        "import dmformer_keras\n"
        "cost = time.process_time() - start\n"
        f"print(cost, sorted({{name for name in {HEAVY!r} if name in sys.modules}} - before))\n"
    )
    for _ in range(2):  # the first time, files may have to be compiled
        cost, loaded = run_python(code).split(maxsplit=1)
        assert loaded.strip() == "[]"
        if float(cost) <= 0.3:
            return
    raise AssertionError(f"the import took {cost} s")


@pytest.mark.once_under_jax  # it starts those of its own
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "tensorflow"])
def test_models_and_training_work_without_tensorflow(backend):
    pytest.importorskip(backend)
    output = run_python(
        # As if TensorFlow were not installed.
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "def find_all_but_tensorflow(name, *arguments):\n"
        "    return None if name.split('.')[0] == 'tensorflow' else find(name, *arguments)\n"
        "PathFinder.find_spec = find_all_but_tensorflow\n"
        "import sys, numpy, keras\n"
        "before = set(sys.modules)\n"
        "import dmformer_keras.data\n"
        "heavy = {'tensorflow_datasets', 'sklearn', 'PIL', 'tqdm'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy\n"
        "from dmformer_keras.data import (\n"
        "    open_source, steps_per_epoch, to_py_dataset, to_tf_dataset)\n"
        "images = numpy.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), 'uint8')\n"
        "labels = numpy.arange(12) % 3\n"
        "backbone = dmformer_keras.DMFormerBackbone(\n"
        "    channels=(8, 8, 8, 8), depths=(1, 1, 1, 1), input_shape=(32, 32, 3))\n"
        "model = dmformer_keras.DMFormerClassifier(backbone, 3)\n"
        "loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)\n"
        "model.compile('adamw', loss)\n"
        "model.fit(images.astype('float32'), labels, batch_size=4, epochs=1, verbose=0)\n"
        "source = open_source((images, labels))\n"
        "batches = to_py_dataset(source, 32, 4, training=True)\n"
        "history = model.fit(batches, steps_per_epoch=steps_per_epoch(source, 4), verbose=0)\n"
        "assert numpy.isfinite(history.history['loss']).all()\n"
        "try:\n"
        "    to_tf_dataset(source, 32, 4)\n"
        "except ValueError as error:\n"
        "    assert 'to_py_dataset' in str(error)\n"
        "    print('refused')\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print('trained')\n",
        backend=backend,
    )
    assert output == "refused\ntrained\n"


@pytest.mark.once_under_jax
def test_wheel_holds_what_it_needs_and_finds_shipped_presets(tmp_path):
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("not a source checkout")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {"dmformer_keras/py.typed", "dmformer_keras/weights/README.md"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]
    preset = tmp_path / "installed" / "dmformer_keras" / "weights" / "dmformer_shipped"
    code = (
        "import sys, dmformer_keras\n"
        f"assert dmformer_keras.__file__.startswith({str(tmp_path)!r})\n"
        "tiny = dmformer_keras.DMFormerBackbone(channels=(8, 8, 8, 8), depths=(1, 1, 1, 1))\n"
        f"tiny.save_to_preset({str(preset)!r})\n"
        "assert 'dmformer_shipped' in dmformer_keras.DMFormerBackbone.presets\n"
        "dmformer_keras.DMFormerBackbone.from_preset('dmformer_shipped', load_weights=True)\n"
    )
    run_python(code, folder=tmp_path / "installed")
