"""Ranges of int8 files that XNNPACK, which runs them on a CPU, can compute with."""

import numpy as np

from dmformer_keras.export.tflite_file import schema

# XNNPACK refuses an operator whose output is finer than its products by this or more.
_LARGEST_RATIO = 256.0
_SAFE_RATIO = 200.0
# Operators whose output has the scale of their input.
_KEEPING = (
    "MAX_POOL_2D",
    "PAD",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "STRIDED_SLICE",
    "TRANSPOSE",
)
# Index of the kernel and of the bias among the inputs of each operator with a kernel.
_KERNEL, _BIAS = 1, 2


def coarsen_dead_outputs(model):
    """Gives the outputs of an int8 model that are next to nothing a coarser scale.

    A layer that gives almost 0 for every calibration image, such as a gate's ReLU that has died,
    gets a scale so small that XNNPACK refuses to run the model at all. With a coarser one those
    values round to what they are: almost 0.
    """
    operators = schema().BuiltinOperator
    graph = model.subgraphs[0]
    layers, keeping = (
        [
            operator
            for operator in graph.operators
            if model.operatorCodes[operator.opcodeIndex].builtinCode
            in {getattr(operators, name) for name in names}
        ]
        for names in (("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), _KEEPING)
    )
    for layer in layers:
        ratio = _ratio(graph, layer)
        if ratio >= _LARGEST_RATIO:
            for tensor in _with_the_same_scale(keeping, layer.outputs[0]):
                _coarsen(model, graph, layers, tensor, ratio / _SAFE_RATIO)


def _scales(graph, tensor):
    quantization = graph.tensors[tensor].quantization
    found = None if quantization is None else quantization.scale
    return np.zeros(0) if found is None else np.asarray(found, np.float64)


def _ratio(graph, layer):
    """Returns how much coarser a layer's products are than its output, 0 for a float layer."""
    source, kernel = _scales(graph, layer.inputs[0]), _scales(graph, layer.inputs[_KERNEL])
    target = _scales(graph, layer.outputs[0])
    if not (source.size and kernel.size and target.size):
        return 0.0
    return float(source[0] * kernel.max() / target[0])


def _with_the_same_scale(keeping, tensor):
    """Returns a tensor and all those behind it whose scale is its own."""
    found = [tensor]
    for known in found:
        found += [operator.outputs[0] for operator in keeping if operator.inputs[0] == known]
    return found


def _coarsen(model, graph, layers, tensor, factor):
    """Multiplies a tensor's scale, and with it those of the biases that are added to its products.

    The output's own zero point stays: of a ReLU it is the value of 0.
    """
    quantization = graph.tensors[tensor].quantization
    quantization.scale = quantization.scale * np.float32(factor)
    for layer in layers:
        if layer.inputs[0] != tensor or len(layer.inputs) <= _BIAS or layer.inputs[_BIAS] < 0:
            continue
        bias = graph.tensors[layer.inputs[_BIAS]]
        bias.quantization.scale = bias.quantization.scale * np.float32(factor)
        buffer = model.buffers[bias.buffer]
        values = np.frombuffer(bytes(buffer.data), np.int32) / factor
        buffer.data = np.round(values).astype(np.int32).view(np.uint8)
