"""KerasCV's segmentation heads on a DMFormer backbone learn, and work with our own tools."""

import keras
import numpy as np
import pytest
import segmentation_heads as heads

import dmformer_keras  # noqa: F401, brings keras_cv.models.DMFormerBackbone

pytest.importorskip("tensorflow", reason="KerasCV needs TensorFlow on every backend")
keras_cv = pytest.importorskip("keras_cv")

# They trace and compile for minutes on a CPU.
pytestmark = pytest.mark.slow(on=["jax", "tensorflow"])

HEADS = {"DeepLabV3Plus": {"projection_filters": 16}, "SegFormer": {"projection_filters": 32}}


@pytest.fixture(scope="module", params=HEADS)
def trained(request):
    keras.utils.set_random_seed(0)
    backbone = keras_cv.models.DMFormerBackbone(
        **heads.BACKBONE, input_shape=(heads.SIZE, heads.SIZE, 3)
    )
    head = getattr(keras_cv.models, request.param)
    model = head(backbone=backbone, num_classes=len(heads.NAMES), **HEADS[request.param])
    # These heads end in a softmax, and the loss takes logits.
    logits = keras.Model(model.input, keras.ops.log(keras.ops.maximum(model.output, 1e-7)))
    return heads.train(model, logits)


class TestKerasCVHeads(heads.SegmentationHeadTests):
    backbone_class = keras_cv.models.DMFormerBackbone

    def test_logarithms_of_probabilities_serve_as_logits(self, trained):
        probabilities = keras.ops.softmax(heads.predict(trained.logits, trained.images))
        expected = heads.predict(trained.model, trained.images)
        np.testing.assert_allclose(heads.array(probabilities), expected, atol=1e-5)
