"""The same weights give the same outputs on every backend that is installed."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from helpers import BACKENDS, array, images, randomize, run_python, tiny_classifier
from test_fusing import SMALL, randomized

from dmformer_keras import DMFormerBackbone, DMFormerS, SemanticFPN, UPerNet, fuse

# One run, JAX's, compares every other backend with itself.
pytestmark = pytest.mark.once_under_jax

# {name: (model, size of the image that it is asked about)}: one side that the strides divide, and
# an odd one, where the backends might pad differently. JAX compiles anew for each size.
MODELS = {
    "S": (lambda: DMFormerS(input_shape=(None, None, 3), num_classes=1000), (64, 97)),
    "SemanticFPN": (lambda: segmenter(SemanticFPN), (64, 75)),
    "UPerNet": (lambda: segmenter(UPerNet), (64, 75)),
}
# In inference, without compiling: S in JAX takes minutes to compile on a CPU.
ELSEWHERE = """
import json, sys
import keras, numpy
import dmformer_keras

def answer(model, name):
    outputs = model(numpy.load(f"{name}_images.npy"), training=False)
    numpy.save(f"{name}_outputs.npy", keras.ops.convert_to_numpy(outputs))

for name in json.loads(sys.argv[1]):
    answer(keras.models.load_model(f"{name}.keras"), name)
answer(dmformer_keras.load("preset"), "preset")
"""


def segmenter(head):
    backbone = DMFormerBackbone.from_preset("dmformer_n", input_shape=(None, None, 3))
    return head(backbone, 11, head_channels=32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder of saved models and of images, {name: their outputs here})."""
    folder, outputs = tmp_path_factory.mktemp("saved"), {}

    def answer(model, name, batch):
        np.save(folder / f"{name}_images.npy", batch)
        outputs[name] = array(model(batch, training=False))

    for name, (make, size) in MODELS.items():
        model = randomize(make())
        model.save(folder / f"{name}.keras")
        answer(model, name, images(1, *size, 3))
    model = randomized(tiny_classifier(**SMALL))
    fuse(model).save(folder / "fused.keras")
    answer(model, "fused", images(2, 48, 32, 3))
    model.save_to_preset(folder / "preset")
    answer(model, "preset", images(2, 48, 32, 3))
    return folder, outputs


def other_backends():
    return [
        name
        for name in BACKENDS
        if name != keras.config.backend() and importlib.util.find_spec(name) is not None
    ]


@pytest.fixture(scope="module", params=other_backends())
def outputs(saved, request):
    """{name: the outputs on another backend and those here}; a process for all."""
    folder, expected = saved
    files = json.dumps([*MODELS, "fused"])
    code = f"import sys; sys.argv = ['', {files!r}]\n" + ELSEWHERE
    run_python(code, backend=request.param, timeout=900, folder=folder)
    return {name: (np.load(folder / f"{name}_outputs.npy"), expected[name]) for name in expected}


def test_s_gives_the_same_logits_on_every_backend(outputs):
    found, expected = outputs["S"]
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4


@pytest.mark.parametrize("head", ["SemanticFPN", "UPerNet"])
def test_segmenters_give_the_same_masks_on_every_backend(head, outputs):
    found, expected = outputs[head]
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.999


def test_a_fused_file_gives_the_original_s_outputs_on_every_backend(outputs):
    found, expected = outputs["fused"]
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4


def test_a_preset_folder_moves_between_backends(outputs):
    found, expected = outputs["preset"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
