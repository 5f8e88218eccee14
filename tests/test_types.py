"""The annotations, by a user's script: right use passes a type checker, wrong use is caught."""

import ast
import inspect
import os
import typing
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

RIGHT_IN_PARTS = """
from pathlib import Path

import keras
import numpy as np

from dmformer_keras import DMFormerN, data, export, hub, layers, training

photos = data.open_source("photos.zip", split="train")
image, label = photos.read(0)
classes: list[str] = photos.class_names
streets = data.open_source(Path("streets"), task="segment", ignored_labels=(11,))
pixels: int = data.count_pixels(streets).sum()
changes = data.Augmentation.named("standard")
for augmentation in (None, changes):
    data.to_tf_dataset(photos, (160, 240), 32, training=True, augmentation=augmentation)
data.to_py_dataset(data.cached(photos, (64, 64), "memory"), 64, 8, mixing=data.Mixing(mixup=0.2))
steps: int = data.steps_per_epoch(photos, 32)

recipe = training.Recipe.named("imagenette")
changed: training.Recipe = recipe
training.train(recipe, "dmformer_n", "photos.zip", Path("run"), callbacks=[], verbose=0)
training.train(training.SegmentationRecipe(epochs=2), "dmformer_n", (image, image), "other")
model = training.load_classifier("run")
top1: float = training.evaluate(model, photos, batch_size=8).top1
miou: float = training.evaluate_segmenter(model, streets, flip=True).miou
groups = training.parameter_groups(DMFormerN(num_classes=3), layer_decay=0.75)
optimizer = training.with_parameter_groups(keras.optimizers.AdamW)(1e-3)
optimizer.set_groups(groups)
depth: int | None = groups[0].depth
loss = training.SegmentationLoss(class_weights=[1.0, 2.0], dice=1)

file: Path = export.to_onnx(DMFormerN(), "model.onnx", quantization="int8", images=photos)
file = export.to_openvino(DMFormerN(), file, (64, None, 3), representative_data=image[None])
exported = export.load_exported(file, threads=2)
differences: dict[str, float] = export.compare_exported(DMFormerN(), exported, image[None])
where: str = hub.upload_preset("hf://me/model", Path("folder"), licence="mit")

attention = layers.DynamicMultilevelAttention(levels=[(3, 1), (5, 2)], name="attention")
gate = attention.gate(attention(np.zeros((1, 8, 8, 16))))
block = layers.DMFormerBlock(mlp_ratio=2.5, layer_scale=None)
"""

WRONG = (
    'dmformer_keras.classify(dmformer_keras.load("a"), "cat.jpg", top="3")',
    "dmformer_keras.load(3)",
    'dmformer_keras.DMFormerN(num_classes="10")',
    "dmformer_keras.DMFormerBackbone(channels=64)",
    "dmformer_keras.SemanticFPN.from_preset('dmformer_n', num_classes='4')",
    "dmformer_keras.no_such_name",
    'dmformer_keras.data.open_source("a", channels="3")',
    'dmformer_keras.data.count_pixels(dmformer_keras.data.open_source("a"))',
    'dmformer_keras.data.resize_image("cat.jpg", 64)',
    'dmformer_keras.data.Augmentation(rotate="10")',
    'dmformer_keras.training.Recipe(epochs="30")',
    'dmformer_keras.training.train("imagenette", "dmformer_n", "a", output="b")',
    'dmformer_keras.training.SegmentationLoss(dice="1")',
    'dmformer_keras.export.to_onnx(dmformer_keras.DMFormerN(), "a.onnx", batch_size="1")',
    'dmformer_keras.export.load_exported("a.onnx", threads=0.5)',
    'dmformer_keras.layers.StochasticDepth("0.1")',
    "dmformer_keras.layers.DMFormerBlock(levels=7)",
    'dmformer_keras.hub.upload_preset("hf://a/b", "c", private="yes")',
)
PARTS = ("benchmark", "data", "explain", "export", "hub", "inference", "layers", "presets",
         "training", "training.recipes")  # fmt: skip
SELF = ("self", "cls")
# Methods that a user calls by another syntax.
CALLED = ("__init__", "__call__", "__len__")

pytestmark = pytest.mark.once_under_jax


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """Returns what mypy says of a script and of the modules of the package that it reaches."""
    cache = tmp_path_factory.mktemp("cache")

    def check(script):
        path = cache / "script.py"
        path.write_text(script, encoding="utf-8")
        options = ["--ignore-missing-imports", "--no-error-summary"]
        before = os.environ.get("MYPYPATH")
        os.environ["MYPYPATH"] = str(Path(dmformer_keras.__file__).parent.parent)
        try:
            said, failed, _ = api.run([*options, "--cache-dir", str(cache), str(path)])
        finally:
            os.environ.pop("MYPYPATH") if before is None else os.environ.update(MYPYPATH=before)
        assert not failed
        return [line for line in said.splitlines() if ": error:" in line]

    return check


@pytest.mark.parametrize("script", [RIGHT, RIGHT_IN_PARTS])
def test_right_use_passes(complaints, script):
    assert complaints(script) == []


def test_each_wrong_use_is_caught(complaints):
    found = complaints("import dmformer_keras\n" + "\n".join(WRONG))
    assert [int(line.split(":")[1]) - 2 for line in found] == list(range(len(WRONG))), found


def functions_of(cls):
    """Yields the public functions that a class has from this package."""
    for base in cls.__mro__:
        if not base.__module__.startswith("dmformer_keras"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") and name not in CALLED:
                continue
            value = value.fget if isinstance(value, property) else value
            function = inspect.unwrap(getattr(value, "__func__", value))
            if inspect.isfunction(function):
                yield function


def is_annotated(function):
    for form in typing.get_overloads(function) or [function]:
        signature = inspect.signature(form)
        values = [p.annotation for name, p in signature.parameters.items() if name not in SELF]
        if inspect.Signature.empty in (*values, signature.return_annotation):
            return False
    return True


@pytest.mark.parametrize("part", ["", *PARTS])
def test_every_public_function_is_annotated(part):
    module = dmformer_keras
    for name in filter(None, part.split(".")):
        module = getattr(module, name)
    found = [getattr(module, name) for name in getattr(module, "__all__", ("find", "names"))]
    functions = [value for value in found if inspect.isroutine(value)]
    for cls in (value for value in found if inspect.isclass(value)):
        functions += functions_of(cls)
    assert functions
    assert [function.__qualname__ for function in functions if not is_annotated(function)] == []


def test_every_public_function_of_the_integrations_is_annotated():
    """By their text: to import them takes the other libraries."""
    bare, seen = [], 0
    for path in (Path(dmformer_keras.__file__).parent / "integrations").glob("keras_*.py"):
        for cls in ast.parse(path.read_text(encoding="utf-8")).body:
            methods = cls.body if isinstance(cls, ast.ClassDef) else []
            for method in (node for node in methods if isinstance(node, ast.FunctionDef)):
                if method.name.startswith("_") and method.name not in CALLED:
                    continue
                seen += 1
                names = ast.walk(method.args)
                bare += [
                    f"{cls.name}.{method.name}({name.arg})"
                    for name in names
                    if isinstance(name, ast.arg) and not name.annotation
                    and name.arg not in SELF
                ]  # fmt: skip
                bare += [] if method.returns else [f"{cls.name}.{method.name}"]
    assert seen
    assert bare == []
