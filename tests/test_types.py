"""The annotations, by a user's script: right use passes a type checker, wrong use is caught."""

import os
from pathlib import Path

import pytest

import dmformer_keras

api = pytest.importorskip("mypy.api")

RIGHT = """
import numpy as np

import dmformer_keras
from dmformer_keras import DMFormerBackbone, DMFormerN, SemanticFPN

model = dmformer_keras.load("dmformer_t_imagenette")
one: list[tuple[str, float]] = dmformer_keras.classify(model, "cat.jpg", top=3)
image = np.zeros((40, 60, 3), np.uint8)
several: list[list[tuple[str, float]]] = dmformer_keras.classify(model, ["cat.jpg", image])
height: int = dmformer_keras.segment(model, image, flip=True).shape[0]
classifier = DMFormerN(input_shape=(None, 64, 3), num_classes=10)
fused: dmformer_keras.FusedModel = dmformer_keras.fuse(classifier)
backbone = DMFormerBackbone.from_preset("dmformer_s", output_stride=16)
stride: int = backbone.feature_info["P2"]["stride"]
SemanticFPN(backbone, 11).save_to_preset("folder")
dmformer_keras.export.to_tflite(classifier, "model.tflite")
"""

WRONG = (
    'dmformer_keras.classify(dmformer_keras.load("a"), "cat.jpg", top="3")',
    "dmformer_keras.load(3)",
    'dmformer_keras.DMFormerN(num_classes="10")',
    "dmformer_keras.DMFormerBackbone(channels=64)",
    "dmformer_keras.SemanticFPN.from_preset('dmformer_n', num_classes='4')",
    "dmformer_keras.no_such_name",
)

pytestmark = pytest.mark.backend_independent


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """Returns {line: what mypy says} of a script, the checker's cache kept between scripts."""
    cache = tmp_path_factory.mktemp("cache")

    def check(script):
        path = cache / "script.py"
        path.write_text(script, encoding="utf-8")
        options = ["--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary"]
        before = os.environ.get("MYPYPATH")
        os.environ["MYPYPATH"] = str(Path(dmformer_keras.__file__).parent.parent)
        try:
            said, failed, _ = api.run([*options, "--cache-dir", str(cache), str(path)])
        finally:
            os.environ.pop("MYPYPATH") if before is None else os.environ.update(MYPYPATH=before)
        assert not failed
        return [line for line in said.splitlines() if ": error:" in line]

    return check


def test_right_use_passes(complaints):
    assert complaints(RIGHT) == []


def test_each_wrong_use_is_caught(complaints):
    found = complaints("import dmformer_keras\n" + "\n".join(WRONG))
    assert [int(line.split(":")[1]) - 2 for line in found] == list(range(len(WRONG))), found
