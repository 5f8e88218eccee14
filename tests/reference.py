"""DMA and the DMFormer block in NumPy float64, straight from the formulas of the paper.

Shares no code with the layers. Images are (batch, height, width, channels). Weights are
plain dictionaries of arrays named after the formulas' parts.
"""

import math

import numpy as np

EPSILON = 1e-5  # of every BatchNorm


def pointwise(x, kernel, bias=0.0):
    """1x1 convolution."""
    return np.einsum("bhwc,cd->bhwd", x, kernel) + bias


def depthwise(x, kernel, dilation):
    """Depthwise convolution, zero padding that keeps the size. kernel: (k, k, channels)."""
    size = kernel.shape[0]
    margin = dilation * (size - 1) // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    height, width = x.shape[1:3]
    out = np.zeros_like(x)
    for row in range(size):
        for column in range(size):
            top, left = row * dilation, column * dilation
            out += padded[:, top : top + height, left : left + width] * kernel[row, column]
    return out


def batch_norm(x, norm):
    """BatchNorm with moving statistics. norm: gamma, beta, mean, variance."""
    scaled = (x - norm["mean"]) / np.sqrt(norm["variance"] + EPSILON)
    return scaled * norm["gamma"] + norm["beta"]


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(x, weights, levels, use_gate=True, inner_residual=True):
    """DMA: X' = X + Conv1x1(ReLU(BN(levels))), output = gate * Conv1x1(X')."""
    channels = x.shape[-1]
    expanded = pointwise(x, weights["expand"])
    outputs = [
        depthwise(expanded[..., i * channels : (i + 1) * channels], weights["levels"][i], dilation)
        for i, (_, dilation) in enumerate(levels)
    ]
    mixed = relu(batch_norm(np.concatenate(outputs, axis=-1), weights["norm"]))
    mixed = pointwise(mixed, *weights["fuse"])
    if inner_residual:
        mixed = x + mixed
    projected = pointwise(mixed, *weights["project"])
    if not use_gate:
        return projected
    pooled = x.mean(axis=(1, 2))
    hidden = relu(pooled @ weights["gate_reduce"][0] + weights["gate_reduce"][1])
    gate = sigmoid(hidden @ weights["gate_expand"][0] + weights["gate_expand"][1])
    return gate[:, None, None, :] * projected


def block(x, weights, levels):
    """x + DMA(BN(x)), then x + Conv1x1(GELU(Conv1x1(BN(x))))."""
    x = x + attention(batch_norm(x, weights["attention_norm"]), weights["attention"], levels)
    hidden = gelu(pointwise(batch_norm(x, weights["mlp_norm"]), *weights["mlp_expand"]))
    return x + pointwise(hidden, *weights["mlp_project"])


def attention_weights(layer):
    """Reads a DynamicMultilevelAttention's weights into the reference's dictionaries."""
    weights = {
        "expand": _array(layer.expand.kernel)[0, 0],
        "levels": [_array(level.kernel)[..., 0] for level in layer.depthwise],
        "norm": norm_weights(layer.norm),
        "fuse": _pointwise_weights(layer.fuse),
        "project": _pointwise_weights(layer.project),
    }
    if layer.use_gate:
        for name in ("gate_reduce", "gate_expand"):
            dense = getattr(layer, name)
            weights[name] = (_array(dense.kernel), _array(dense.bias))
    return weights


def block_weights(layer):
    """Reads a DMFormerBlock's weights into the reference's dictionaries."""
    return {
        "attention_norm": norm_weights(layer.attention_norm),
        "attention": attention_weights(layer.attention),
        "mlp_norm": norm_weights(layer.mlp_norm),
        "mlp_expand": _pointwise_weights(layer.mlp_expand),
        "mlp_project": _pointwise_weights(layer.mlp_project),
    }


def norm_weights(layer):
    return {
        "gamma": _array(layer.gamma),
        "beta": _array(layer.beta),
        "mean": _array(layer.moving_mean),
        "variance": _array(layer.moving_variance),
    }


def _pointwise_weights(layer):
    return _array(layer.kernel)[0, 0], _array(layer.bias)


def _array(variable):
    import keras

    return keras.ops.convert_to_numpy(variable).astype("float64")
