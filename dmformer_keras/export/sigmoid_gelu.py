"""GELU in a form that XNNPACK computes in int8.

It has no int8 GELU: each one would leave its graph and run on one thread. It has an int8
sigmoid and product, and `x * sigmoid(1.702 x)` is GELU within 0.021 (Hendrycks and Gimpel
2016, "Gaussian Error Linear Units"), less than a step of int8 for values in -3..3. The
factor goes into the weights around it, so that `x * sigmoid(x)` is left.
"""

from dmformer_keras.export.rebuilding import rebuilt
from dmformer_keras.layers.fused import FusedDMFormerBlock

FACTOR = 1.702


def with_sigmoid_gelu(model):
    """Returns a fused model whose blocks have `x * sigmoid(1.702 x)` in the place of GELU:
    `keras.Model`; `model` itself where no block of it has a GELU.
    """
    blocks = [
        layer
        for layer in model.layers
        if isinstance(layer, FusedDMFormerBlock) and layer.activation == "gelu"
    ]
    if not blocks:
        return model
    copy = rebuilt(model, _with_silu)
    copy.set_weights(model.get_weights())
    for block in blocks:
        scaled = copy.get_layer(block.name)
        # Its outputs are others: `layer_errors` must not take them for the original's.
        scaled.mlp_expand.name += f"_times_{FACTOR}"
        for weight in scaled.mlp_expand.weights:
            weight.assign(weight * FACTOR)
        scaled.mlp_project.kernel.assign(scaled.mlp_project.kernel / FACTOR)
    return copy


def _with_silu(part):
    """Returns a part of a model's configuration, a fused block's with another activation."""
    if part.get("class_name") != FusedDMFormerBlock.__name__:
        return part
    config = part["config"]
    if config["activation"] != "gelu":
        return part
    return {**part, "config": {**config, "activation": "silu"}}
