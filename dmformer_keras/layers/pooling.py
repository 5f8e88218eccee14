"""Averages over a fixed number of parts of a feature map."""

import keras
from keras import ops

from dmformer_keras.checks import check_positive_int
from dmformer_keras.layers.common import spatial_axes, standard_data_format


@keras.saving.register_keras_serializable(package="dmformer_keras")
class PartAverages(keras.layers.Layer):
    """Averages features over `parts` x `parts` regions, for maps of any height and width.

    Each region reaches from the floor of its beginning to the ceiling of its end, so regions
    overlap if they do not divide the map: PyTorch's adaptive average pooling, as in PSPNet (Zhao et
    al. 2017). `keras.layers.AdaptiveAveragePooling2D` fails in a TensorFlow graph on maps smaller
    than `parts`.

    >>> import numpy as np
    >>> features = np.arange(6.0, dtype="float32").reshape(1, 2, 3, 1)
    >>> keras.ops.convert_to_numpy(PartAverages(2)(features))[0, :, :, 0].tolist()
    [[0.5, 1.5], [3.5, 4.5]]
    """

    def __init__(self, parts, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.parts = check_positive_int("parts", parts)
        self.data_format = standard_data_format(data_format)

    def call(self, inputs):
        vertical, horizontal = (
            self.averages(ops.shape(inputs)[axis], inputs.dtype)
            for axis in spatial_axes(self.data_format)
        )
        if self.data_format == "channels_first":
            return ops.matmul(vertical, ops.matmul(inputs, ops.transpose(horizontal)))
        _, height, width, channels = ops.shape(inputs)
        # As few, large products: a row of the map is one long vector at first.
        rows = ops.matmul(vertical, ops.reshape(inputs, (-1, height, width * channels)))
        return ops.matmul(horizontal, ops.reshape(rows, (-1, self.parts, width, channels)))

    def averages(self, size, dtype):
        """Returns the matrix `(parts, size)` that averages over each part."""
        part, pixel = ops.arange(self.parts)[:, None], ops.arange(size)[None, :]
        begin, end = part * size // self.parts, -((-(part + 1) * size) // self.parts)
        inside = ops.logical_and(pixel >= begin, pixel < end)
        return ops.cast(inside, dtype) / ops.cast(end - begin, dtype)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        for axis in spatial_axes(self.data_format):
            shape[axis] = self.parts
        return tuple(shape)

    def get_config(self):
        return {**super().get_config(), "parts": self.parts, "data_format": self.data_format}
