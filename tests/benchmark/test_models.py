"""The models that are compared are those that they are named after."""

import importlib.util

import pytest
from helpers import run_python

from dmformer_keras.benchmark import models
from dmformer_keras.benchmark.contestants import PEERS, Contestant
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent


# Millions of parameters and billions of multiply-accumulates as their authors state them.
@pytest.mark.parametrize(
    ("name", "parameters", "operations"),
    [("resnet50", 25.557, 4.09), ("swin_tiny_patch4_window7_224", 28.288, 4.5)],
)
def test_timm_models(name, parameters, operations):
    if not all(map(importlib.util.find_spec, ("torch", "timm", "torchvision"))):
        pytest.skip("timm's models need torch, timm and torchvision")
    model, count, multiply_accumulates = models.build_timm_model(
        Contestant(f"timm/{name}", "torch")
    )
    assert not model.training
    assert count / 1e6 == pytest.approx(parameters, abs=0.01)
    assert multiply_accumulates / 1e9 == pytest.approx(operations, rel=0.01)


@pytest.mark.parametrize("name", PEERS["keras-hub"]["inference"])
def test_keras_hub_models(name):
    pytest.importorskip("keras_hub")
    contestant = Contestant(f"keras-hub/{name}", "tensorflow")
    model = models.build_keras_model(contestant)
    expected = {"resnet50": 25.6, "mit_b2": 24.7, "swin_tiny": 28.3}
    count, operations = models.count_keras_model(contestant, model)
    assert model.output.shape == (None, 1000)
    assert count / 1e6 == pytest.approx(expected[name], abs=0.1)
    # Attention's products are not counted: no number is better than a wrong one.
    assert (operations is None) == (name != "resnet50")


def test_a_batch_has_the_sizes_asked_for():
    sizes = {"batch_size": 2, "image_size": (32, 48)}
    images = models.random_images(Contestant("dmformer_n", "jax", **sizes))
    assert images.shape == (2, 32, 48, 3)
    assert 100 < images.mean() < 155  # 0..255
    images = models.random_images(Contestant("timm/resnet50", "torch", **sizes))
    assert images.shape == (2, 3, 32, 48)
    assert abs(images.mean()) < 0.1


@pytest.mark.parametrize("model", ["keras/NoSuchNet", "keras-hub/no_such_net"])
def test_unknown_peers_are_refused(model):
    pytest.importorskip("keras_hub")
    with pytest.raises(DMFormerError, match=r"(?i)no_?such_?net"):
        models.build_keras_model(Contestant(model, "tensorflow"))


def test_the_plain_form_is_keras_own_and_gives_the_same():
    code = """
import numpy as np
from keras.layers import DepthwiseConv2D
from dmformer_keras.benchmark import models
from dmformer_keras.benchmark.contestants import Contestant
from dmformer_keras.layers.convolution import DepthwiseConvolution

ours, plain = (
    models.build_keras_model(Contestant("dmformer_n", "tensorflow", forms, image_size=(32, 32)))
    for forms in ((), ("plain",))
)
assert DepthwiseConvolution.call is DepthwiseConv2D.call
for weight, value in zip(plain.weights, ours.get_weights(), strict=True):
    assert np.array_equal(weight.numpy(), value)
print("same weights")
"""
    assert run_python(code, backend="tensorflow") == "same weights\n"


def test_the_fused_form_is_counted_whole():
    counts = [
        models.count_keras_model(contestant, models.build_keras_model(contestant))[1]
        for forms in ((), ("fused",))
        for contestant in [Contestant("dmformer_n", "tensorflow", forms, image_size=(64, 64))]
    ]
    # Folding a BatchNorm saves no product, and merging the last two 1x1 maps none on balance.
    assert counts[1] == counts[0]
