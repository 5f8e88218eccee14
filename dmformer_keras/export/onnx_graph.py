"""ONNX graphs written layer by layer, channels first, as ONNX Runtime computes fastest.

The layers of a fused model are few. Each is written as the operators that ONNX Runtime joins
with their neighbors: every 1x1 product as a convolution that takes along its bias, ReLU and
sum, GELU whole. Nothing is transposed but the input and an output map.
"""

import dataclasses
import math

import keras
import numpy as np

from dmformer_keras import segmenter
from dmformer_keras.layers import backend_paths, fused, pooling, resizing
from dmformer_keras.layers.backend_paths import same_margins
from dmformer_keras.layers.convolution import (
    Convolution,
    DepthwiseConvolution,
    PositionwiseDense,
    reachable_taps,
)

# The first opset with the operator Gelu; with earlier ones it is written as several operators.
GELU_OPSET = 20


class UnknownLayerError(Exception):
    """A layer, or a setting of a layer, that this module cannot write."""


@dataclasses.dataclass(frozen=True)
class _Value:
    """A tensor of the graph: `(batch, channels, *sides)`."""

    name: str
    channels: int
    sides: tuple


def model_proto(model, shape, batch_size, opset, data_format):
    """Returns a fused model as an `onnx.ModelProto`."""
    import onnx

    graph = _Graph(opset)
    height, width, channels = shape
    channels_last = data_format == "channels_last"
    images = _Value("images", channels, (height, width))
    first = graph.transposed(images, (0, 3, 1, 2)) if channels_last else images
    last = _write_layers(graph, model, first)
    if channels_last and last.sides:
        last = graph.transposed(last, (0, 2, 3, 1))
    graph.rename_output(last, "outputs")

    def info(name, value):
        sides = (*value.sides, value.channels) if channels_last else (value.channels, *value.sides)
        dimensions = [batch_size or "batch", *sides]
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dimensions)

    proto = onnx.helper.make_graph(
        graph.nodes,
        model.name,
        [info("images", images)],
        [info("outputs", last)],
        graph.weights,
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(
        proto,
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
        producer_name="dmformer_keras",
    )


def _write_layers(graph, model, first):
    """Writes each layer of a functional model; returns its output."""
    known = {id(model.inputs[0]): first}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            write = _WRITERS.get(type(node.operation))
            if write is None or len(node.outputs) != 1:
                raise UnknownLayerError(type(node.operation).__name__)
            inputs = [known[id(tensor)] for tensor in node.arguments.keras_tensors]
            known[id(node.outputs[0])] = write(graph, node.operation, *inputs)
    return known[id(model.outputs[0])]


class _Graph:
    """The nodes and weights written so far."""

    def __init__(self, opset):
        self.opset = opset
        self.nodes = []
        self.weights = []
        self.names = set()

    def node(self, operator, inputs, name, **attributes):
        """Adds an operator of one output; returns the output's name."""
        import onnx

        unique = self._unique(name)
        self.nodes.append(
            onnx.helper.make_node(operator, inputs, [unique], name=unique, **attributes)
        )
        return unique

    def constant(self, array, name):
        """Adds an array; returns its name."""
        import onnx

        unique = self._unique(name)  # a layer may be used twice
        self.weights.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), unique))
        return unique

    def _unique(self, name):
        unique, number = name, 1
        while unique in self.names:
            number += 1
            unique = f"{name}_{number}"
        self.names.add(unique)
        return unique

    def number(self, value):
        """Adds a number, once; returns its name."""
        name = f"number_{value:.9g}"
        return name if name in self.names else self.constant(np.float32(value), name)

    def same(self, operator, inputs, name, **attributes):
        """Adds an operator whose output has the shape of its first input."""
        output = self.node(operator, [value.name for value in inputs], name, **attributes)
        return dataclasses.replace(inputs[0], name=output)

    def transposed(self, value, order):
        return self.same("Transpose", [value], f"{value.name}_transposed", perm=order)

    def rename_output(self, value, name):
        last = next(node for node in self.nodes if node.output[0] == value.name)
        last.output[0] = name
        for node in self.nodes:
            node.input[:] = [name if each == value.name else each for each in node.input]


def _convolution(graph, value, kernel, bias, name, strides=(1, 1), dilations=(1, 1), **options):
    """Writes a convolution. `kernel` is `(height, width, channels of a group, filters)`."""
    same, groups = options.get("padding", "same") == "same", options.get("groups", 1)
    margins = []
    sides = []
    for size, taps, stride, dilation in zip(
        value.sides, kernel.shape[:2], strides, dilations, strict=True
    ):
        before, after = same_margins(size, taps, stride, dilation) if same else (0, 0)
        reach = dilation * (taps - 1) + 1
        margins.append((before, after))
        sides.append((size + before + after - reach) // stride + 1)
    inputs = [value.name, graph.constant(kernel.transpose(3, 2, 0, 1), f"{name}/kernel")]
    if bias is not None:
        inputs.append(graph.constant(bias, f"{name}/bias"))
    output = graph.node(
        "Conv",
        inputs,
        name,
        kernel_shape=kernel.shape[:2],
        strides=strides,
        dilations=dilations,
        pads=[before for before, _ in margins] + [after for _, after in margins],
        group=groups,
    )
    return _Value(output, kernel.shape[3], tuple(sides))


def _activated(graph, value, activation, name):
    """Writes an activation, which works on each number or on the channels."""
    name = f"{name}/activation"
    if activation in (backend_paths.exact_gelu, keras.activations.gelu):
        return _gelu(graph, value, name)
    if activation is keras.activations.silu:
        return graph.same("Mul", [value, graph.same("Sigmoid", [value], name)], name)
    if activation in (None, keras.activations.linear):
        return value
    if activation is keras.activations.softmax:
        return graph.same("Softmax", [value], name, axis=1)
    if activation not in _OPERATORS:
        raise UnknownLayerError(str(activation))
    return graph.same(_OPERATORS[activation], [value], name)


_OPERATORS = {
    keras.activations.relu: "Relu",
    keras.activations.sigmoid: "Sigmoid",
    keras.activations.tanh: "Tanh",
}


def _gelu(graph, value, name):
    if graph.opset >= GELU_OPSET:
        return graph.same("Gelu", [value], name)
    # ONNX Runtime recognizes a GELU by this order of operators.
    x = graph.node("Div", [value.name, graph.number(math.sqrt(2))], f"{name}/scaled")
    x = graph.node("Erf", [x], f"{name}/erf")
    x = graph.node("Add", [x, graph.number(1)], f"{name}/shifted")
    x = graph.node("Mul", [value.name, x], f"{name}/product")
    x = graph.node("Mul", [x, graph.number(0.5)], name)
    return dataclasses.replace(value, name=x)


def _array(weight):
    return keras.ops.convert_to_numpy(weight).astype("float32")


def _bias(layer):
    return _array(layer.bias) if layer.use_bias else None


def _expect(holds, layer):
    """Checks that a setting of a layer has its usual value; other values cannot be written."""
    if not holds:
        raise UnknownLayerError(layer.name)


def _write_convolution(graph, layer, value):
    _expect(layer.data_format == "channels_last" and layer.padding in ("same", "valid"), layer)
    x = _convolution(
        graph,
        value,
        _array(layer.kernel),
        _bias(layer),
        layer.name,
        layer.strides,
        layer.dilation_rate,
        padding=layer.padding,
        groups=layer.groups,
    )
    return _activated(graph, x, layer.activation, layer.name)


def _write_depthwise(graph, layer, value, name=None):
    _expect(layer.data_format == "channels_last" and layer.padding in ("same", "valid"), layer)
    name = name or layer.name
    kernel = _array(layer.kernel)
    if isinstance(layer, DepthwiseConvolution) and layer.keeps_size():
        kernel = reachable_taps(kernel, value.sides, tuple(layer.dilation_rate))
    # A filter is that of a channel and of one of its multiples, in this order.
    kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    x = _convolution(
        graph,
        value,
        kernel,
        _bias(layer),
        name,
        layer.strides,
        layer.dilation_rate,
        padding=layer.padding,
        groups=value.channels,
    )
    return _activated(graph, x, layer.activation, name)


def _pointwise(graph, layer, value, name):
    """Writes a dense layer over the channels as a 1x1 convolution."""
    x = _convolution(graph, value, _array(layer.kernel)[None, None], _bias(layer), name)
    return _activated(graph, x, layer.activation, name)


def _write_dense(graph, layer, value):
    if value.sides:
        return _pointwise(graph, layer, value, layer.name)
    inputs = [value.name, graph.constant(_array(layer.kernel), f"{layer.name}/kernel")]
    if layer.use_bias:
        inputs.append(graph.constant(_array(layer.bias), f"{layer.name}/bias"))
    x = _Value(graph.node("Gemm", inputs, layer.name), layer.kernel.shape[1], ())
    return _activated(graph, x, layer.activation, layer.name)


def _write_attention(graph, layer, value, name=None):
    _expect(layer.data_format == "channels_last", layer)
    name = name or layer.name
    total = _pointwise(graph, layer.direct, value, f"{name}/direct") if layer.direct else None
    for expand, level, project in zip(layer.expand, layer.depthwise, layer.project, strict=True):
        x = _pointwise(graph, expand, value, f"{name}/{expand.name}")
        x = _write_depthwise(graph, level, x, f"{name}/{level.name}")
        x = _pointwise(graph, project, x, f"{name}/{project.name}")
        total = x if total is None else graph.same("Add", [x, total], f"{name}/sum")
    if layer.use_gate:
        gate = graph.node("GlobalAveragePool", [value.name], f"{name}/gate_pool")
        gate = _Value(gate, value.channels, (1, 1))
        gate = _pointwise(graph, layer.gate_reduce, gate, f"{name}/gate_reduce")
        gate = _pointwise(graph, layer.gate_expand, gate, f"{name}/gate_expand")
        total = graph.same("Mul", [total, gate], f"{name}/gated")
    if layer.residual:
        total = graph.same("Add", [total, value], f"{name}/residual")
    return total


def _write_block(graph, layer, value):
    x = _write_attention(graph, layer.attention, value, f"{layer.name}/attention")
    hidden = _pointwise(graph, layer.mlp_expand, x, f"{layer.name}/mlp_expand")
    outputs = _pointwise(graph, layer.mlp_project, hidden, f"{layer.name}/mlp_project")
    return graph.same("Add", [outputs, x], f"{layer.name}/residual")


def _write_global_average(graph, layer, value):
    _expect(layer.data_format == "channels_last", layer)
    pooled = graph.node("GlobalAveragePool", [value.name], layer.name)
    if layer.keepdims:
        return _Value(pooled, value.channels, (1, 1))
    return _Value(graph.node("Flatten", [pooled], f"{layer.name}/flat"), value.channels, ())


def _write_rescaling(graph, layer, value):
    _expect(np.ndim(layer.scale) == np.ndim(layer.offset) == 0, layer)
    x = graph.node("Mul", [value.name, graph.number(layer.scale)], f"{layer.name}/scaled")
    x = graph.node("Add", [x, graph.number(layer.offset)], layer.name)
    return dataclasses.replace(value, name=x)


def _write_scale_and_offset(graph, layer, value):
    _expect(layer.axis in (-1, len(value.sides) + 1), layer)
    return _per_channel(graph, value, layer.scale, layer.offset, layer.name)


def _per_channel(graph, value, scale, offset, name):
    """Writes a factor and a summand for each channel, either of which may be None."""
    x, shape = value.name, (-1, *(1 for _ in value.sides))
    for operator, weight in (("Mul", scale), ("Add", offset)):
        if weight is not None:
            weight = graph.constant(_array(weight).reshape(shape), f"{name}/{operator.lower()}_by")
            x = graph.node(operator, [x, weight], f"{name}/{operator.lower()}")
    return dataclasses.replace(value, name=x)


def _write_group_norm(graph, layer, value):
    _expect(layer.axis in (-1, 3) and len(value.sides) == 2, layer)
    groups = value.channels if layer.groups == -1 else layer.groups
    name = layer.name
    shape = graph.constant(np.int64([0, groups, -1]), f"{name}/groups")
    ones = graph.constant(np.ones(groups, "float32"), f"{name}/ones")
    zeros = graph.constant(np.zeros(groups, "float32"), f"{name}/zeros")
    x = graph.node("Reshape", [value.name, shape], f"{name}/grouped")
    x = graph.node(
        "InstanceNormalization", [x, ones, zeros], f"{name}/normalized", epsilon=layer.epsilon
    )
    shape = graph.constant(np.int64([0, value.channels, *value.sides]), f"{name}/shape")
    x = graph.node("Reshape", [x, shape], f"{name}/ungrouped")
    x = dataclasses.replace(value, name=x)
    scale, offset = layer.gamma if layer.scale else None, layer.beta if layer.center else None
    return _per_channel(graph, x, scale, offset, name)


def _write_resize(graph, layer, value, reference):
    _expect(layer.data_format == "channels_last", layer)
    if value.sides == reference.sides:
        return value
    # Not by the sizes of some axes, because ONNX Runtime cannot load such a node in int8.
    factors = [_factor(*pair) for pair in zip(value.sides, reference.sides, strict=True)]
    scales = graph.constant(np.float32([1, 1, *factors]), f"{layer.name}/scales")
    resized = graph.node(
        "Resize",
        [value.name, "", scales],
        layer.name,
        coordinate_transformation_mode="half_pixel",
        mode={"bilinear": "linear", "nearest": "nearest"}[layer.interpolation],
        nearest_mode="round_prefer_ceil",
    )
    return _Value(resized, value.channels, reference.sides)


def _factor(size, new_size):
    """Returns a float32 factor whose product, rounded down as runtimes do, is the new size."""
    factor = np.float32(new_size / size)
    while size * float(factor) < new_size:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


def _write_part_averages(graph, layer, value):
    _expect(layer.data_format == "channels_last", layer)
    vertical, horizontal = (
        keras.ops.convert_to_numpy(layer.averages(side, "float32")) for side in value.sides
    )
    horizontal = graph.constant(horizontal.T, f"{layer.name}/horizontal")
    vertical = graph.constant(vertical, f"{layer.name}/vertical")
    x = graph.node("MatMul", [value.name, horizontal], f"{layer.name}/rows")
    x = graph.node("MatMul", [vertical, x], layer.name)
    return _Value(x, value.channels, (layer.parts, layer.parts))


def _write_concatenation(graph, layer, *values):
    _expect(layer.axis in (-1, len(values[0].sides) + 1), layer)
    x = graph.node("Concat", [value.name for value in values], layer.name, axis=1)
    return _Value(x, sum(value.channels for value in values), values[0].sides)


def _write_sum(graph, layer, *values):
    total, *others = values
    for value in others:
        total = graph.same("Add", [total, value], layer.name)
    return total


def _write_padding(graph, layer, value):
    _expect(layer.data_format == "channels_last", layer)
    (top, bottom), (left, right) = layer.padding
    pads = graph.constant(np.int64([0, 0, top, left, 0, 0, bottom, right]), f"{layer.name}/pads")
    sides = (value.sides[0] + top + bottom, value.sides[1] + left + right)
    return _Value(graph.node("Pad", [value.name, pads], layer.name), value.channels, sides)


def _write_relu(graph, layer, value):
    _expect(layer.max_value is None and not layer.negative_slope and not layer.threshold, layer)
    return graph.same("Relu", [value], layer.name)


def _write_activation(graph, layer, value):
    return _activated(graph, value, keras.activations.get(layer.activation), layer.name)


def _write_nothing(graph, layer, value):
    return value


_WRITERS = {
    Convolution: _write_convolution,
    DepthwiseConvolution: _write_depthwise,
    PositionwiseDense: _write_dense,
    fused.FusedDMFormerBlock: _write_block,
    fused.FusedMultilevelAttention: _write_attention,
    fused.ScaleAndOffset: _write_scale_and_offset,
    pooling.PartAverages: _write_part_averages,
    resizing.ResizeLike: _write_resize,
    segmenter._Activation: _write_activation,
    keras.layers.Activation: _write_activation,
    keras.layers.Add: _write_sum,
    keras.layers.Concatenate: _write_concatenation,
    keras.layers.Conv2D: _write_convolution,
    keras.layers.Dense: _write_dense,
    keras.layers.DepthwiseConv2D: _write_depthwise,
    keras.layers.Dropout: _write_nothing,
    keras.layers.GlobalAveragePooling2D: _write_global_average,
    keras.layers.GroupNormalization: _write_group_norm,
    keras.layers.Identity: _write_nothing,
    keras.layers.ReLU: _write_relu,
    keras.layers.Rescaling: _write_rescaling,
    keras.layers.ZeroPadding2D: _write_padding,
}
