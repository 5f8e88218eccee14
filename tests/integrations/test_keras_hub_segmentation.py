"""KerasHub's DeepLabV3 on a DMFormer backbone learns, and works with our own tools."""

import keras
import pytest
import segmentation_heads as heads

import dmformer_keras  # noqa: F401, brings keras_hub.models.DMFormerBackbone

pytest.importorskip("tensorflow", reason="KerasHub needs TensorFlow on every backend")
keras_hub = pytest.importorskip("keras_hub")

pytestmark = [
    pytest.mark.slow(on=["jax", "tensorflow"]),  # trace and compile for minutes on a CPU
    # KerasHub feeds arrays through grain, which does not shuffle, and keeps no compiled state.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:`compile\\(\\)` was not called:UserWarning"),
    pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer:UserWarning"),
]


def segmenter(level="P5", **arguments):
    """A DeepLabV3+ whose pyramid pooling looks at P4 or P5, of strides 16 and 32."""
    shape = (heads.SIZE, heads.SIZE, 3)
    encoder = keras_hub.models.DMFormerBackbone(**heads.BACKBONE, image_shape=shape, **arguments)
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        image_shape=shape,
        spatial_pyramid_pooling_key=level,
        low_level_feature_key="P2",
        upsampling_size={"P4": 4, "P5": 8}[level],
        dilation_rates=[6, 12, 18],
        projection_filters=16,
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=len(heads.NAMES))


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    model = segmenter()
    return heads.train(model, model)


class TestKerasHubDeepLabV3(heads.SegmentationHeadTests):
    backbone_class = keras_hub.models.DMFormerBackbone

    def backbone_of(self, model):
        return model.backbone.image_encoder

    def test_preset_folder_round_trips(self, trained, tmp_path):
        trained.model.save_to_preset(str(tmp_path))
        self.assert_restored(keras_hub.models.ImageSegmenter.from_preset(str(tmp_path)), trained)


def test_logits_have_the_images_size_from_p4_at_output_stride_16():
    assert segmenter("P4", output_stride=16).output_shape == (None, heads.SIZE, heads.SIZE, 3)
