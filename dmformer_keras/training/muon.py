"""Muon for the convolutions of a backbone's stages, and AdamW for all other weights."""

import math
import re

import keras
from keras import ops

from dmformer_keras.grouped_optimizers import with_parameter_groups

MOMENTUM = 0.95
# Five steps of this polynomial bring singular values near 1; their number and its coefficients are
# Jordan's.
STEPS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
# The root mean square of an update, so that it is about as large as AdamW's (Liu et al. 2025).
UPDATE_SIZE = 0.2


class ConvolutionMuon(keras.optimizers.AdamW):
    """Muon for the kernels of ordinary and 1x1 convolutions in the stages of a `DMFormerBackbone`.

    Their updates are the momentum with all its singular values brought near 1, of a kernel as a
    matrix (inputs, outputs), in the size of AdamW's. AdamW trains all other weights: depthwise
    kernels, gates, norms, biases, the stem and the head. `keras.optimizers.Muon` takes only weights
    of two axes: here those of the gates and of the head, and no convolution.

    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the scale of Liu et
    al., "Muon is Scalable for LLM Training" (arXiv 2502.16982).

    Args:
        *args, **kwargs: as in `keras.optimizers.AdamW`.
    """

    def build(self, variables):
        super().build(variables)
        # TensorFlow's own variables, which an update is of, have no path.
        own = [weight for weight in variables if trains_by_muon(weight)]
        self._trained_by_muon = frozenset(map(self._get_variable_index, own))

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if index not in self._trained_by_muon:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._momentums[index]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(momentum, MOMENTUM * momentum + gradient)
        shape = tuple(variable.shape)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        matrix = ops.reshape(gradient + MOMENTUM * momentum, (rows, columns))
        size = UPDATE_SIZE * math.sqrt(max(rows, columns))
        rate = ops.cast(learning_rate, variable.dtype) * size
        self.assign_sub(variable, rate * ops.reshape(orthogonalized(matrix), shape))


GroupedMuon = with_parameter_groups(ConvolutionMuon)


def trains_by_muon(variable):
    """Tells whether `ConvolutionMuon` trains a weight by Muon."""
    is_kernel = len(variable.shape) == 4 and variable.shape[-1] > 1  # 1: depthwise
    return is_kernel and re.search(r"(^|/)stage\d", variable.path) is not None


def orthogonalized(matrix):
    """A matrix with the singular vectors of another, and singular values between 0.7 and 1.2.

    Small singular values, below some thousandths of the norm, stay smaller.
    """
    first, second, third = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = ops.transpose(matrix) if is_tall else matrix
    x = x / (ops.norm(x) + 1e-7)
    for _ in range(STEPS):
        gram = ops.matmul(x, ops.transpose(x))
        x = first * x + ops.matmul(second * gram + third * ops.matmul(gram, gram), x)
    return ops.transpose(x) if is_tall else x
