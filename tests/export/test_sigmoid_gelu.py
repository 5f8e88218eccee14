import keras
import numpy as np
import pytest
from helpers import TINIEST, array, images, randomize, tiny_backbone, tiny_classifier

from dmformer_keras import SemanticFPN, fuse
from dmformer_keras.export import load_exported, to_tflite
from dmformer_keras.export.sigmoid_gelu import with_sigmoid_gelu


def sigmoid_gelu(x):
    return x * keras.ops.sigmoid(1.702 * x)


def test_the_blocks_have_the_formula_and_the_rest_is_the_same(monkeypatch):
    model = fuse(randomize(tiny_classifier(class_names=list("abcde"))))
    x = images(2, 64, 64, 3)
    found = with_sigmoid_gelu(model)
    assert found.class_names == list("abcde")
    exact = array(model(x))
    # The same formula by the original weights.
    for block in model.layers:
        if hasattr(block, "mlp_expand"):
            monkeypatch.setattr(block.mlp_expand, "activation", sigmoid_gelu)
    expected = array(model(x))
    np.testing.assert_allclose(array(found(x)), expected, atol=1e-4 * np.abs(expected).max())
    assert 1e-5 < np.abs(expected - exact).max() / np.abs(exact).max() < 0.02


@pytest.mark.backend_independent
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_other_activations_stay(activation):
    model = fuse(randomize(tiny_backbone(activation=activation)))
    assert with_sigmoid_gelu(model) is model


@pytest.mark.backend_independent
def test_a_segmenter_of_any_size_has_it_too():
    backbone = tiny_backbone(input_shape=(None, None, 3))
    model = fuse(randomize(SemanticFPN(backbone, 3, head_channels=8)))
    x = images(1, 50, 64, 3)
    found, exact = array(with_sigmoid_gelu(model)(x)), array(model(x))
    assert 0 < np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.backend_independent
def test_no_gelu_is_left_in_an_int8_file_unless_asked_for(tmp_path):
    pytest.importorskip("tensorflow", reason="TFLite conversion needs TensorFlow")
    pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")
    model = randomize(tiny_classifier(**TINIEST))
    options = {"representative_data": images(4, 64, 64, 3), "verify": False}
    files = {}
    for wanted in (True, False):
        path = tmp_path / f"{wanted}.tflite"
        files[wanted] = load_exported(
            to_tflite(model, path, "int8", sigmoid_gelu=wanted, **options)
        )
    assert "GELU" not in files[True].operators()
    assert files[False].operators()["GELU"] == 4
