"""Resizing of feature maps to the size of another one."""

import keras
from keras import ops

from dmformer_keras.errors import DMFormerError, shown
from dmformer_keras.layers import backend_paths
from dmformer_keras.layers.common import spatial_axes, standard_data_format


@keras.saving.register_keras_serializable(package="dmformer_keras")
class ResizeLike(keras.layers.Layer):
    """Resizes features to the height and width of a reference, called as `[features, reference]`.

    Unlike `keras.layers.Resizing` and `UpSampling2D` it needs no size or factor beforehand, so a
    model takes images of any size, also of sizes that its strides do not divide.

    >>> import numpy as np
    >>> features = np.ones((1, 4, 5, 8), "float32")
    >>> tuple(ResizeLike()([features, np.zeros((1, 7, 9, 3), "float32")]).shape)
    (1, 7, 9, 8)
    """

    def __init__(self, interpolation="bilinear", data_format=None, **kwargs):
        super().__init__(**kwargs)
        if interpolation not in ("bilinear", "nearest"):
            raise DMFormerError(
                f'interpolation must be "bilinear" or "nearest", not {shown(interpolation)}.'
            )
        self.interpolation = interpolation
        self.data_format = standard_data_format(data_format)

    def call(self, inputs):
        features, reference = inputs
        axes = spatial_axes(self.data_format)
        size = tuple(ops.shape(reference)[axis] for axis in axes)
        resized = backend_paths.resize(features, size, self.interpolation, self.data_format)
        return ops.cast(resized, features.dtype)

    def compute_output_spec(self, inputs):
        features, reference = inputs
        shape = list(features.shape)
        for axis in spatial_axes(self.data_format):
            shape[axis] = reference.shape[axis]
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "interpolation": self.interpolation,
            "data_format": self.data_format,
        }
