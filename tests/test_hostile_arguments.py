"""Whatever a config says, a model is built in seconds, or one sentence says why not."""

import json

import keras
import numpy as np
import pytest
from helpers import TINIEST, stated, tiny_backbone, tiny_classifier

import dmformer_keras
from dmformer_keras import (
    DMFormerBackbone,
    DMFormerClassifier,
    DMFormerError,
    SemanticFPN,
    UPerNet,
    explain,
)
from dmformer_keras.errors import shown

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as some  # noqa: E402

pytestmark = pytest.mark.once_under_torch

BACKBONE = {**TINIEST, "input_shape": (32, 32, 3)}
BACKBONE_ARGUMENTS = (
    "channels", "depths", "levels", "gate_reduction", "use_gate", "inner_residual", "mlp_ratio",
    "activation", "stochastic_depth", "layer_scale", "gradient_checkpointing", "output_stride",
    "include_rescaling", "input_shape", "data_format", "dtype", "name", "trainable",
)  # fmt: skip
HEAD_ARGUMENTS = ("num_classes", "dropout", "activation", "class_names", "name", "trainable")
SEGMENTER_ARGUMENTS = (*HEAD_ARGUMENTS, "head_channels", "normalization", "class_colors")
PRESET_ENTRIES = (*BACKBONE_ARGUMENTS, *SEGMENTER_ARGUMENTS, "class_name", "registered_name")
VALUES = (
    None, True, False, 0, 1, 2, -1, 4, 16, 10**9, 10**400, 0.0, 0.5, 1.0, 1e30, 1e308,
    float("nan"), float("inf"), 1j, np.float32(0.5), np.int64(8), "", "4", "gelu", "glu", "softmax",
    "group", "channels_first", "float16", "mixed_bfloat16", "int8", "int8_from_float32", "a/b",
    "\ud800", b"x",
    "x" * 10**6, [], [1], (1, 1, 1, 1), (1, 2), [10**9] * 4, [8192] * 4, [100_000] * 4, [7] * 10**6,
    [[3, 1]] * 20_000, [[3, 1]], ((9_999, 1),), ((3, 10**9),), (32, 48, 3), (3, 32, 32),
    (10**9, 10**9, 3), (32, 32, 10**9), (None, None, 1), {"a": 1}, {"class_name": "Lambda"},
    ["a", "b", "c"], "abc", ["\ud800"] * 3, np.arange(4), np.array(["a", "b", "c"]), object(),
)  # fmt: skip


@hypothesis.given(
    some.dictionaries(
        some.sampled_from(BACKBONE_ARGUMENTS), some.sampled_from(VALUES), min_size=1, max_size=3
    )
)
def test_backbones(changes):
    def work():
        backbone = DMFormerBackbone.from_config({**BACKBONE, **changes})
        json.dumps(backbone.get_config())

    stated(work)


@pytest.fixture(scope="module")
def backbone():
    return DMFormerBackbone(**BACKBONE)


@hypothesis.given(
    some.dictionaries(
        some.sampled_from(HEAD_ARGUMENTS), some.sampled_from(VALUES), min_size=1, max_size=3
    )
)
def test_classifiers(backbone, changes):
    def work():
        model = DMFormerClassifier(**{"backbone": backbone, "num_classes": 3, **changes})
        json.dumps(model._head_config())

    stated(work)


@hypothesis.given(
    some.sampled_from([SemanticFPN, UPerNet]),
    some.dictionaries(
        some.sampled_from(SEGMENTER_ARGUMENTS), some.sampled_from(VALUES), min_size=1, max_size=3
    ),
)
def test_segmenters(backbone, cls, changes):
    def work():
        given = {"backbone": backbone, "num_classes": 3, "head_channels": 8, **changes}
        json.dumps(cls(**given)._head_config())

    stated(work)


@hypothesis.given(
    some.sampled_from([DMFormerClassifier, SemanticFPN]),
    some.sampled_from(["config.json", "task.json"]),
    some.dictionaries(
        some.sampled_from(PRESET_ENTRIES), some.sampled_from(VALUES), min_size=1, max_size=3
    ),
)
def test_presets(backbone, tmp_path_factory, cls, file, changes):
    folder = tmp_path_factory.getbasetemp() / f"hostile {cls.__name__}"
    if not folder.is_dir():
        more = {"head_channels": 8} if cls is SemanticFPN else {}
        cls(backbone, 3, **more).save_to_preset(folder)
        (folder / "metadata.json").unlink()
    whole = (folder / file).read_text()
    content = json.loads(whole)
    for name, value in changes.items():
        part = content if name.endswith("_name") else content["config"]
        part[name] = value
    try:
        (folder / file).write_text(json.dumps(content, default=str))
        stated(lambda: dmformer_keras.load(folder))
    finally:
        (folder / file).write_text(whole)


@pytest.mark.parametrize("cls", [DMFormerClassifier, SemanticFPN, UPerNet])
@pytest.mark.parametrize("value", [None, 5, "dmformer_s", keras.layers.Dense(3)], ids=str)
def test_what_is_no_backbone_is_named(cls, value):
    with pytest.raises(DMFormerError, match="backbone must be a DMFormerBackbone, not"):
        cls(value, 3)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("depths", [10**9] * 4, "depths must be at most 100"),
        ("channels", [100_000] * 4, "channels must be at most 8,192"),
        ("channels", [8192] * 4, "a backbone of about .* weights, and at most"),
        ("levels", [[3, 1]] * 20_000, "a sequence of 1 to 16"),
        ("levels", ((9_999, 1),), "kernel sizes of at most 127"),
        ("mlp_ratio", 1e9, "at most 64"),
        ("input_shape", (32, 10**9, 3), "at most 65536"),
        ("input_shape", (32, 32, 10**9), "a backbone of about"),
        ("dtype", "int8", "dtype must be a policy"),
        ("dtype", "int8_from_float32", "dtype must be a policy"),
        ("name", "a/b", 'without "/"'),
        ("activation", "glu", "activation must be"),
        ("trainable", "yes", "trainable must be True or False"),
    ],
)
def test_sizes_and_kinds_that_no_one_means(argument, value, message):
    with pytest.raises(DMFormerError, match=message):
        DMFormerBackbone(**{**BACKBONE, argument: value})


@pytest.mark.parametrize(
    "names",
    [5, "abc", [1.5, 2.5, 3.5], [["a"], ["b"], ["c"]], {"a": 1}, {"a", "b", "c"}, frozenset("abc")],
)
def test_class_names_of_wrong_kinds(backbone, names):
    with pytest.raises(DMFormerError, match="class_names must be a list of str"):
        DMFormerClassifier(backbone, 3, class_names=names)


@pytest.mark.parametrize("name", ["a\nb", "a\r", "\x1b[2J", "a\u2028b"])
def test_class_names_that_break_lines(backbone, name):
    """Each would be two in a file of labels."""
    with pytest.raises(DMFormerError, match="no control characters or line breaks"):
        DMFormerClassifier(backbone, 2, class_names=[name, "c"])


def test_a_head_is_bounded(backbone):
    with pytest.raises(DMFormerError, match="num_classes must be at most 131,072"):
        DMFormerClassifier(backbone, 10**7)
    with pytest.raises(DMFormerError, match="head_channels must be at most 1,024"):
        SemanticFPN(backbone, 3, head_channels=10**5)
    for colors in (5, [5, 5, 5], [["a"] * 3] * 3, "abc"):
        with pytest.raises(DMFormerError, match="class_colors must be"):
            SemanticFPN(backbone, 3, head_channels=8, class_colors=colors)


def test_values_are_shown_in_a_line():
    assert shown([7] * 10**7) == "[7, 7, 7, 7, 7, 7, ...]"
    assert shown("a\nb") == repr("a\nb")
    for value in ("x" * 10**7, [["y" * 1000] * 9] * 9, 10**5000, b"\n" * 500, np.ones((99, 99))):
        assert len(shown(value)) <= 100
        assert "\n" not in shown(value)
    assert shown((8, 16, 24, 32)) == "(8, 16, 24, 32)"

    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert "Broken" in shown(Broken())


def test_quantizing_a_model_around_is_refused():
    """The file of such a model would not say so, and not load."""
    for inner in (tiny_backbone(), tiny_classifier(), tiny_classifier(use_gate=False)):
        around = keras.Sequential([keras.Input((64, 64, 3)), inner])
        with pytest.raises(DMFormerError, match="to_tflite"):
            around.quantize("int8")


def test_grad_cam_of_a_batch_says_that_it_takes_one_image():
    with pytest.raises(DMFormerError, match=r"takes one image.* not a batch of shape \(2, 64,"):
        explain.grad_cam(tiny_classifier(), np.zeros((2, 64, 64, 3)))
