"""What needs a fresh process: the order of imports, and loading trained KerasCV models."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import dmformer_keras

tf = pytest.importorskip("tensorflow", reason="KerasCV needs TensorFlow on every backend")
keras_cv = pytest.importorskip("keras_cv")

TINY = {"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "levels": ((3, 1), (5, 2))}
CLASSES = 3

imports_only_once = pytest.mark.once_under_jax


def run(code, *arguments):
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "KERAS_BACKEND": keras.config.backend()},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def tasks(backbone_class):
    """Yields (name, task model) for each of KerasCV's tasks."""
    backbone = {**TINY, "stochastic_depth": 0.1, "input_shape": (64, 64, 3)}
    models = keras_cv.models
    yield "classifier", models.ImageClassifier(backbone_class(**backbone), num_classes=CLASSES)
    yield (
        "segformer",
        models.SegFormer(backbone_class(**backbone), num_classes=CLASSES, projection_filters=16),
    )
    yield (
        "deeplab",
        models.DeepLabV3Plus(backbone_class(**backbone), num_classes=CLASSES, projection_filters=8),
    )


def batches(name, images):
    """Returns a tf.data pipeline of two batches: the masks one-hot, as PyTorch needs."""
    labels = np.arange(len(images)) % CLASSES
    if name != "classifier":
        labels = (images.mean(axis=-1) // 86).astype("int32")
    return tf.data.Dataset.from_tensor_slices((images, np.eye(CLASSES)[labels])).batch(2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of `.keras` files of trained tasks, with images and each task's output."""
    folder = tmp_path_factory.mktemp("trained")
    images = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    outputs = {"images": images}
    for name, model in tasks(keras_cv.models.DMFormerBackbone):
        model.compile(optimizer="adam", loss="categorical_crossentropy")
        history = model.fit(batches(name, images), epochs=1, verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        model.save(folder / f"{name}.keras")
        outputs[name] = keras.ops.convert_to_numpy(model(images, training=False))
    np.savez(folder / "outputs.npz", **outputs)
    return folder


LOAD = """
folder = pathlib.Path(sys.argv[1])
expected = np.load(folder / "outputs.npz")
differences = {}
for path in folder.glob("*.keras"):
    model = keras.models.load_model(path)
    output = keras.ops.convert_to_numpy(model(expected["images"], training=False))
    differences[path.stem] = float(abs(output - expected[path.stem]).max())
import keras_cv
assert isinstance(model.backbone, keras_cv.models.DMFormerBackbone)
print(json.dumps(differences))
"""


@pytest.mark.slow(on=["jax", "tensorflow"])  # which compile and trace for minutes on a CPU
@pytest.mark.parametrize(
    "first", ["import dmformer_keras", "import keras_cv, dmformer_keras"], ids=["alone", "after"]
)
def test_trained_tasks_load_in_a_new_process(trained, first):
    imports = f"import json, pathlib, sys\n{first}\nimport keras\nimport numpy as np\n"
    differences = json.loads(run(imports + LOAD, trained).splitlines()[-1])
    assert differences.keys() == {"classifier", "segformer", "deeplab"}
    assert max(differences.values()) <= 1e-6


@pytest.mark.once_under_torch
def test_our_own_backbone_works_in_the_tasks_too(tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    for name, model in tasks(dmformer_keras.DMFormerBackbone):
        model.save(tmp_path / f"{name}.keras")
        restored = keras.models.load_model(tmp_path / f"{name}.keras")
        assert type(restored.backbone) is dmformer_keras.DMFormerBackbone
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(restored(images, training=False)),
            keras.ops.convert_to_numpy(model(images, training=False)),
            atol=1e-6,
        )


@imports_only_once
def test_dmformer_first():
    run(f"""
import sys
import dmformer_keras
assert not {{"keras_cv", "keras_hub"}} & sys.modules.keys()
# Keras alters the bases of a class at its first instance: before KerasCV has had one.
dmformer_keras.DMFormerBackbone(**{TINY})
from keras_cv.models import DMFormerBackbone
import keras_cv.models as models
import keras_cv
assert DMFormerBackbone is models.DMFormerBackbone is keras_cv.models.DMFormerBackbone
assert sys.modules["keras_cv.api.models"].DMFormerBackbone is DMFormerBackbone
import keras_hub
for cls in (DMFormerBackbone, keras_hub.models.DMFormerBackbone):
    backbone = cls(**{TINY})
    # What the library's constructor gathers: it must have run once the layers were there.
    assert {{id(layer) for layer in backbone.layers}} <= backbone._functional_layer_ids
""")


@imports_only_once
def test_dmformer_last():
    run("""
import sys
import keras_cv
import keras_hub.models as hub_models
import dmformer_keras
backbone = keras_cv.models.DMFormerBackbone
assert hub_models.DMFormerBackbone is not backbone
from keras_cv.models import DMFormerBackbone
assert DMFormerBackbone is backbone
""")


@imports_only_once
def test_dmformer_after_both_copies_of_kerascv_models():
    run("""
import sys
from keras_cv.models import ResNetBackbone
import dmformer_keras
first, second = sys.modules["keras_cv.api.models"], sys.modules["keras_cv.models"]
assert first is not second
assert first.DMFormerBackbone is second.DMFormerBackbone
""")


@imports_only_once
def test_the_integrations_themselves_first():
    """Keras imports them so when it loads a file of a backbone that they define."""
    run("""
import dmformer_keras.integrations.keras_cv as cv
import dmformer_keras.integrations.keras_hub as hub
import keras_cv
import keras_hub
assert keras_cv.models.DMFormerBackbone is cv.DMFormerBackbone
assert keras_hub.models.DMFormerBackbone is hub.DMFormerBackbone
from keras_cv.models import DMFormerBackbone
assert DMFormerBackbone is cv.DMFormerBackbone
""")


@imports_only_once
def test_the_tasks_of_keras_hub_first():
    run("""
import dmformer_keras.integrations.keras_hub_tasks as tasks
import keras_hub
assert keras_hub.models.DMFormerImageSegmenter is tasks.DMFormerImageSegmenter
""")
