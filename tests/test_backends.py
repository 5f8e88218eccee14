"""The same weights give the same outputs on every backend that is installed."""

import importlib.util

import keras
import numpy as np
import pytest
from helpers import BACKENDS, array, images, randomize, run_python

from dmformer_keras import DMFormerBackbone, DMFormerS, DMFormerT, SemanticFPN, UPerNet

# One run, TensorFlow's, compares every other backend with itself.
pytestmark = pytest.mark.backend_independent

LOGITS_CODE = """
import numpy, keras
model = keras.models.load_model({model!r})
for size in {sizes}:
    x = numpy.load({folder!r} + "/x%dx%d.npy" % size)
    # In inference, without compiling: S in JAX takes minutes to compile on a CPU.
    y = keras.ops.convert_to_numpy(model(x, training=False))
    numpy.save({folder!r} + "/y%dx%d.npy" % size, y)
"""


def logits_elsewhere(model, backend, sizes, folder):
    model.save(folder / "model.keras")
    for size in sizes:
        np.save(folder / "x{}x{}.npy".format(*size), images(1, *size, 3))
    code = LOGITS_CODE.format(model=str(folder / "model.keras"), folder=str(folder), sizes=sizes)
    run_python("import dmformer_keras\n" + code, backend=backend, timeout=900)
    return [np.load(folder / "y{}x{}.npy".format(*size)) for size in sizes]


def other_backends():
    return [
        name
        for name in BACKENDS
        if name != keras.config.backend() and importlib.util.find_spec(name) is not None
    ]


@pytest.mark.parametrize("backend", other_backends())
def test_s_gives_the_same_logits_on_every_backend(backend, tmp_path):
    model = randomize(DMFormerS(input_shape=(None, None, 3), num_classes=1000))
    sizes = [(224, 224), (97, 161)]
    for size, found in zip(sizes, logits_elsewhere(model, backend, sizes, tmp_path), strict=True):
        expected = array(model(images(1, *size, 3), training=False))
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        assert difference <= 1e-4, size


@pytest.mark.parametrize("backend", other_backends())
@pytest.mark.parametrize("head", [SemanticFPN, UPerNet])
def test_segmenters_give_the_same_masks_on_every_backend(backend, head, tmp_path):
    backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(None, None, 3))
    model = randomize(head(backbone, 11, head_channels=32))
    sizes = [(96, 128), (75, 101)]
    for size, found in zip(sizes, logits_elsewhere(model, backend, sizes, tmp_path), strict=True):
        expected = array(model(images(1, *size, 3), training=False))
        assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4, size
        assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.999, size


@pytest.mark.parametrize("backend", other_backends())
def test_a_preset_folder_moves_between_backends(backend, tmp_path):
    model = randomize(DMFormerT(input_shape=(64, 64, 3), num_classes=3))
    model.save_to_preset(tmp_path / "preset")
    x = images(2, 64, 64, 3)
    np.save(tmp_path / "x.npy", x)
    run_python(
        "import numpy, keras, dmformer_keras\n"
        f"model = dmformer_keras.DMFormerT(weights={str(tmp_path / 'preset')!r})\n"
        f"y = model(numpy.load({str(tmp_path / 'x.npy')!r}), training=False)\n"
        f"numpy.save({str(tmp_path / 'y.npy')!r}, keras.ops.convert_to_numpy(y))\n",
        backend=backend,
    )
    expected = array(model(x, training=False))
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), expected, atol=1e-4 * np.abs(expected).max()
    )
