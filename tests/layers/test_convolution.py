"""The fast convolutions and BatchNorm against Keras's own: the same values and gradients."""

import keras
import numpy as np
import pytest
from helpers import array, features, loss_and_gradients

from dmformer_keras.layers import backend_paths
from dmformer_keras.layers.convolution import (
    BatchNorm,
    Convolution,
    DepthwiseConvolution,
    PositionwiseDense,
    reachable_taps,
)
from dmformer_keras.layers.filter_gradient import (
    depthwise_filter_gradient,
    torch_depthwise_filter_gradient,
)

BACKEND = keras.config.backend()
# (height, width), kernel size, dilation: odd and even maps, maps that the dilation does
# not divide, that its taps overshoot, that are cut into several tiles.
DEPTHWISE = [
    ((16, 16), 3, 1),
    ((16, 16), 7, 3),
    ((33, 26), 5, 2),
    ((7, 9), 5, 3),
    ((14, 5), 7, 2),
    ((4, 4), 7, 3),
    ((2, 3), 5, 4),
    ((57, 40), 7, 3),
    ((9, 20), (3, 7), (2, 2)),
]
CONVOLUTIONS = [
    {"kernel_size": 1},
    {"kernel_size": 1, "filters": 3},  # fewer than channels: another product for its gradient
    {"kernel_size": 1, "strides": 2},
    {"kernel_size": 7, "strides": 2, "padding": "same"},
    {"kernel_size": 2, "strides": 2, "padding": "same"},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 2, "dilation_rate": 2},
    {"kernel_size": (3, 2), "padding": "same", "dilation_rate": 3},
    {"kernel_size": 1, "groups": 2, "filters": 6},
]


class KerasConvolution(keras.layers.Conv2D):
    """Keras's own, which takes no `training`."""

    def call(self, inputs, training=None):
        return super().call(inputs)


class KerasDepthwiseConvolution(keras.layers.DepthwiseConv2D):
    """Keras's own, which takes no `training`."""

    def call(self, inputs, training=None):
        return super().call(inputs)


def pair(ours, theirs, inputs, **arguments):
    """Returns our layer and Keras's of the same random weights."""
    layers = ours(**arguments), theirs(**arguments)
    for layer in layers:
        layer.build(inputs.shape)
    random = np.random.default_rng(1)
    for weights in zip(layers[0].weights, layers[1].weights, strict=True):
        value = random.uniform(0.5, 1.5, weights[0].shape).astype("float32")
        for variable in weights:
            variable.assign(value)
    return layers


def assert_same_gradients(layers, inputs, shape, training, tolerance=1e-5):
    cotangent = features(*shape, seed=2)
    ours, theirs = (
        loss_and_gradients(layer, inputs, cotangent, training=training) for layer in layers
    )
    for one, other in zip(_flat(ours), _flat(theirs), strict=True):
        assert np.abs(one - other).max() <= tolerance * max(np.abs(other).max(), 1.0)


def _flat(results):
    return [array(tensor) for tensor in keras.tree.flatten(results)]


def assert_same_outputs(layers, inputs, **arguments):
    ours, theirs = (array(layer(inputs, **arguments)) for layer in layers)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("size", "kernel_size", "dilation"), DEPTHWISE)
def test_depthwise_equals_keras_in_value_and_gradients(size, kernel_size, dilation, training):
    inputs = features(3, *size, 6)
    layers = pair(
        DepthwiseConvolution,
        KerasDepthwiseConvolution,
        inputs,
        kernel_size=kernel_size,
        dilation_rate=dilation,
        padding="same",
        activation="tanh" if size == (16, 16) else None,
    )
    assert_same_outputs(layers, inputs)
    assert_same_gradients(layers, inputs, inputs.shape, training)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "strides": 2, "padding": "same"},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": 3, "padding": "valid", "dilation_rate": 2},
        {"kernel_size": 3, "padding": "same", "depth_multiplier": 2},
    ],
)
def test_depthwise_of_any_other_kind_is_keras_s(arguments):
    inputs = features(2, 11, 8, 4)
    layers = pair(DepthwiseConvolution, KerasDepthwiseConvolution, inputs, **arguments)
    assert_same_outputs(layers, inputs)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="no channels_first convolution on a CPU")
def test_channels_first_is_the_same_convolution():
    inputs = features(2, 6, 12, 9)
    layers = pair(
        DepthwiseConvolution,
        KerasDepthwiseConvolution,
        inputs,
        kernel_size=5,
        dilation_rate=2,
        padding="same",
        data_format="channels_first",
    )
    assert_same_outputs(layers, inputs)
    assert_same_gradients(layers, inputs, inputs.shape, True)
    layers = pair(
        Convolution,
        KerasConvolution,
        inputs,
        filters=5,
        kernel_size=1,
        data_format="channels_first",
    )
    assert_same_outputs(layers, inputs)


@pytest.mark.parametrize("ours", [Convolution, DepthwiseConvolution])
def test_channels_first_biases_go_to_the_channels(ours):
    # As many channels as columns, which Keras under TensorFlow takes for one another.
    layer = ours(kernel_size=1, data_format="channels_first", **_filters(ours, 5))
    layer.build((None, 5, 4, 5))
    bias = features(5)
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    layer.bias.assign(bias)
    outputs = array(layer(features(2, 5, 4, 5)))
    np.testing.assert_array_equal(outputs, np.broadcast_to(bias[:, None, None], outputs.shape))


def _filters(ours, filters):
    return {"filters": filters} if ours is Convolution else {"padding": "same"}


def test_unknown_sizes_are_taken():
    inputs = keras.Input((None, None, 4))
    outputs = DepthwiseConvolution(7, padding="same", dilation_rate=3)(inputs)
    model = keras.Model(inputs, Convolution(6, 1)(outputs))
    fixed = keras.Sequential([keras.Input((10, 13, 4)), *model.layers[1:]])
    x = features(2, 10, 13, 4)
    np.testing.assert_allclose(array(model(x)), array(fixed(x)), atol=1e-5)
    assert model(features(1, 5, 6, 4), training=True).shape == (1, 5, 6, 6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("arguments", CONVOLUTIONS)
def test_convolution_equals_keras_in_value_and_gradients(arguments, training):
    inputs = features(2, 13, 10, 4)
    layers = pair(Convolution, KerasConvolution, inputs, **{"filters": 5, **arguments})
    assert_same_outputs(layers, inputs)
    assert_same_gradients(layers, inputs, layers[1].compute_output_shape(inputs.shape), training)


@pytest.mark.parametrize("positions", [3, 40, 48])
@pytest.mark.parametrize("use_bias", [True, False])
def test_positionwise_dense_equals_keras_with_few_positions_and_many(positions, use_bias):
    inputs = features(positions, 6)
    layers = pair(PositionwiseDense, keras.layers.Dense, inputs, units=5, use_bias=use_bias)
    assert_same_outputs(layers, inputs)


@pytest.mark.parametrize("size", [(1, 1, 1), (4, 7, 5)])
def test_batch_norm_equals_keras_in_value_gradients_and_statistics(size):
    inputs = 3 * features(*size, 6) + 2
    layers = pair(BatchNorm, keras.layers.BatchNormalization, inputs, momentum=0.8)
    assert_same_outputs(layers, inputs, training=True)
    for ours, theirs in zip(layers[0].weights, layers[1].weights, strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), rtol=1e-5, atol=1e-6)
    assert_same_gradients(layers, inputs, inputs.shape, True, tolerance=1e-4)
    assert_same_outputs(layers, inputs, training=False)


def test_frozen_batch_norm_keeps_its_statistics():
    inputs = features(4, 3, 3, 6)
    layer, _ = pair(BatchNorm, keras.layers.BatchNormalization, inputs)
    layer.trainable = False
    before = [array(weight) for weight in layer.weights]
    np.testing.assert_array_equal(array(layer(inputs, training=True)), array(layer(inputs)))
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_half_precision_keeps_statistics_in_float32():
    inputs = 3 * features(8, 6, 6, 4) + 2
    layers = pair(
        BatchNorm, keras.layers.BatchNormalization, inputs, dtype="mixed_bfloat16", momentum=0.5
    )
    outputs = [layer(inputs, training=True) for layer in layers]
    assert keras.backend.standardize_dtype(outputs[0].dtype) == "bfloat16"
    ours, theirs = (array(keras.ops.cast(value, "float32")) for value in outputs)
    np.testing.assert_allclose(ours, theirs, atol=0.05)
    np.testing.assert_allclose(
        array(layers[0].moving_variance), array(layers[1].moving_variance), rtol=1e-2
    )
    assert layers[0].moving_mean.dtype == "float32"


def direct_filter_gradient(inputs, upstream, kernel_sizes, dilations):
    """The definition, tap by tap, in float64."""
    gradient = np.zeros((*kernel_sizes, inputs.shape[3], 1))
    margins = [k // 2 * d for k, d in zip(kernel_sizes, dilations, strict=True)]
    padded = np.pad(inputs.astype("float64"), ((0, 0), *((m, m) for m in margins), (0, 0)))
    height, width = inputs.shape[1:3]
    for row, column in np.ndindex(*kernel_sizes):
        top, left = row * dilations[0], column * dilations[1]
        shifted = padded[:, top : top + height, left : left + width]
        gradient[row, column, :, 0] = (shifted * upstream).sum((0, 1, 2))
    return gradient


@pytest.mark.parametrize(
    ("size", "kernel_sizes", "dilations"),
    [((6, 6), (3, 3), (1, 1)), ((58, 31), (7, 5), (3, 2)), ((3, 50), (5, 3), (1, 1))],
)
def test_filter_gradient_is_the_sum_over_the_batch(size, kernel_sizes, dilations):
    inputs, upstream = features(2, *size, 4), features(2, *size, 4, seed=3)
    expected = direct_filter_gradient(inputs, upstream, kernel_sizes, dilations)
    functions = [depthwise_filter_gradient]
    if keras.config.backend() == "torch":
        functions.append(torch_depthwise_filter_gradient)
    for function in functions:
        ours = function(
            keras.ops.convert_to_tensor(inputs),
            keras.ops.convert_to_tensor(upstream),
            kernel_sizes,
            dilations,
        )
        np.testing.assert_allclose(array(ours), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("sizes", "dilations", "kept"),
    [
        ((7, 7), (3, 3), (5, 5)),
        ((10, 9), (3, 3), (7, 5)),
        ((3, 4), (3, 3), (1, 3)),
        ((None, 1), (3, 3), (7, 1)),
    ],
)
def test_taps_that_see_only_padding_are_left_out(sizes, dilations, kept):
    kernel = features(7, 7, 4, 1)
    middle = array(reachable_taps(kernel, sizes, dilations))
    assert middle.shape[:2] == kept
    top, left = (7 - kept[0]) // 2, (7 - kept[1]) // 2
    expected = kernel[top : top + kept[0], left : left + kept[1]]
    np.testing.assert_array_equal(middle, expected)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("axis", [1, -1])
def test_an_activation_of_whole_axes_sees_the_layer_s_own_output(data_format, axis):
    if data_format == "channels_first" and BACKEND == "tensorflow":
        pytest.skip("no channels_first convolution on a CPU")
    inputs = features(2, 16, 12, 14)
    common = {"activation": lambda x: keras.ops.softmax(x, axis=axis), "data_format": data_format}
    depthwise = {"kernel_size": 7, "dilation_rate": 3, "padding": "same"}
    for ours, theirs, own in (
        (Convolution, KerasConvolution, {"filters": 5, "kernel_size": 1}),
        (DepthwiseConvolution, KerasDepthwiseConvolution, depthwise),
    ):
        layers = pair(ours, theirs, inputs, **common, **own)
        assert_same_outputs(layers, inputs)
        assert_same_outputs(layers, inputs, training=True)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch has an operator for both, where oneDNN is")
@pytest.mark.parametrize("activation", ["relu", backend_paths.exact_gelu])
@pytest.mark.parametrize(
    ("layer", "arguments"),
    [
        (Convolution, {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"}),
        (Convolution, {"filters": 5, "kernel_size": 1}),
        (DepthwiseConvolution, {"kernel_size": 3, "padding": "same"}),
        (DepthwiseConvolution, {"kernel_size": 7, "padding": "same", "dilation_rate": 3}),
        (PositionwiseDense, {"units": 5}),
    ],
)
def test_without_gradients_onednn_computes_the_activation(
    layer, arguments, activation, monkeypatch
):
    import torch

    inputs = features(*((48, 4) if layer is PositionwiseDense else (3, 15, 16, 4)))
    layer = layer(activation=activation, bias_initializer="random_normal", **arguments)
    layer.build(inputs.shape)
    inputs = torch.from_numpy(inputs)
    outputs = layer(inputs)
    assert torch.autograd.grad(outputs.sum(), layer.trainable_weights[0].value)[0].abs().sum() > 0
    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(backend_paths, "_activated", None)  # would take a pass of its own
        alone = layer(inputs)
    with torch.no_grad():
        of_none = layer(inputs[:0])
    np.testing.assert_allclose(array(alone), array(outputs), atol=1e-5)
    assert of_none.shape == (0, *outputs.shape[1:])


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's own products are MKL's")
@pytest.mark.parametrize("filters", [3, 5])
def test_onednn_computes_the_products_of_a_training_step(filters, monkeypatch):
    import torch

    if "AVX" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("products are left to PyTorch on processors without AVX")
    layer = Convolution(filters, 1)
    layer.build((3, 15, 16, 4))
    inputs = torch.tensor(features(3, 15, 16, 4), requires_grad=True)
    operands = inputs, layer.kernel.value
    upstream = torch.from_numpy(features(3, 15, 16, filters))

    def gradients(of_gradients=False):
        found = torch.autograd.grad(
            (layer(inputs, training=True) ** 2 * upstream).sum(), operands, create_graph=True
        )
        return torch.autograd.grad(found[0].square().sum(), operands) if of_gradients else found

    with torch.profiler.profile() as profile:
        gradients()
    names = {event.key for event in profile.key_averages()}
    both = gradients(), gradients(of_gradients=True)
    monkeypatch.setattr(backend_paths, "_onednn_multiplies", lambda inputs: False)
    for ours, theirs in zip(both, (gradients(), gradients(of_gradients=True)), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(array(one), array(other), rtol=1e-4, atol=1e-4)
    assert "mkldnn::_linear_pointwise" in names
    assert "aten::mm" not in names


@pytest.mark.skipif(BACKEND != "torch", reason="transforms of PyTorch")
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_torch_transforms_functions_of_a_layer(kernel_size):
    import torch
    from torch.autograd import forward_ad

    layer = Convolution(5, kernel_size, activation="relu")
    layer.build((3, 15, 16, 4))
    inputs, direction = (torch.from_numpy(features(3, 15, 16, 4, seed=seed)) for seed in (0, 1))
    outputs, tangent = torch.func.jvp(layer, (inputs,), (direction,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(layer(forward_ad.make_dual(inputs, direction))).tangent
    upstream = torch.from_numpy(features(*outputs.shape, seed=2))
    gradient = torch.func.grad(lambda x: (layer(x) * upstream).sum())(inputs)
    with torch.no_grad():
        each = torch.func.vmap(lambda image: layer(image[None])[0])(inputs)
    np.testing.assert_allclose(array(each), array(outputs), atol=1e-5)
    np.testing.assert_allclose(array(dual), array(tangent), atol=1e-5)
    # The derivative along a direction, forward and backward.
    forward, backward = (tangent * upstream).sum(), (gradient * direction).sum()
    np.testing.assert_allclose(array(forward), array(backward), rtol=1e-3)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone has two ways to compile")
def test_tensorflow_takes_the_form_for_xla_under_jit_compile():
    import tensorflow as tf

    layer = DepthwiseConvolution(7, padding="same", dilation_rate=3)
    inputs = features(2, 12, 9, 4)
    expected = array(layer(inputs))

    def operations(**arguments):
        function = tf.function(lambda x: layer(x, training=True), **arguments)
        np.testing.assert_allclose(array(function(inputs)), expected, atol=1e-5)
        graph = function.get_concrete_function(tf.TensorSpec(inputs.shape)).graph
        names = {operation.type for operation in graph.get_operations()}
        return {name for name in names if "Depthwise" in name}

    # Keras's models keep an attribute of their own of TensorFlow's name for it.
    layer._jit_compile = True
    assert operations(jit_compile=True) == set()
    assert operations() == {"DepthwiseConv2dNative"}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone converts to TFLite")
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "resizable"])
@pytest.mark.parametrize(("size", "kernel_size", "dilation"), DEPTHWISE)
def test_the_form_for_tflite_is_the_same_convolution(size, kernel_size, dilation, fixed):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="runs TFLite files")
    import tensorflow as tf

    inputs = features(1, *size, 4)
    layer = DepthwiseConvolution(kernel_size, padding="same", dilation_rate=dilation)
    expected = array(layer(inputs))
    shape = inputs.shape if fixed else (1, None, None, 4)
    with backend_paths.for_tflite():  # its operator has a dilation, which only converters know
        function = tf.function(layer, input_signature=[tf.TensorSpec(shape)])
        concrete = function.get_concrete_function()
    module = tf.Module()
    module.weights = [weight.value for weight in layer.weights]
    converted = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()
    file = interpreter.Interpreter(model_content=converted)
    source, target = file.get_input_details()[0]["index"], file.get_output_details()[0]["index"]
    file.resize_tensor_input(source, inputs.shape)
    file.allocate_tensors()
    file.set_tensor(source, inputs)
    file.invoke()
    np.testing.assert_allclose(file.get_tensor(target), expected, atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone converts to TFLite")
def test_no_depthwise_kernel_for_tflite_exceeds_xnnpack_s():
    import tensorflow as tf

    layer = DepthwiseConvolution(7, padding="same", dilation_rate=3)
    inputs = features(1, 12, 40, 4)
    layer(inputs)
    function = tf.function(lambda x: layer(x))
    with backend_paths.for_tflite():
        graph = function.get_concrete_function(tf.TensorSpec(inputs.shape)).graph
    kernels = [
        operation.inputs[1].shape[:2].num_elements()
        for operation in graph.get_operations()
        if operation.type == "DepthwiseConv2dNative"
    ]
    assert len(kernels) == 3
    assert sum(kernels) == 49
    assert max(kernels) <= backend_paths.XNNPACK_LARGEST_KERNEL


@pytest.mark.skipif(BACKEND != "jax", reason="JAX alone compiles the sum of shifted maps")
def test_jax_never_reaches_xla_s_general_convolution_on_a_cpu():
    import jax

    assert backend_paths._on_cpu(None)
    layer = DepthwiseConvolution(7, padding="same", dilation_rate=3)
    inputs = features(2, 12, 9, 4)
    layer(inputs)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(lambda x: layer(x))(inputs))


@pytest.mark.skipif(BACKEND != "jax", reason="forward-mode derivatives are JAX's")
def test_jax_has_forward_mode_derivatives_at_inference():
    import jax

    layer = DepthwiseConvolution(5, padding="same", dilation_rate=2)
    inputs, direction = features(2, 12, 9, 4), features(2, 12, 9, 4, seed=1)
    layer(inputs)
    layer.bias.assign(np.zeros(4))
    _, derivative = jax.jvp(lambda x: layer(x), (inputs,), (direction,))
    np.testing.assert_allclose(array(derivative), array(layer(direction)), atol=1e-5)


def test_half_precision_is_summed_in_float32():
    inputs = np.abs(features(2, 20, 20, 4))
    half = DepthwiseConvolution(7, padding="same", dilation_rate=2, dtype="mixed_bfloat16")
    exact = DepthwiseConvolution(7, padding="same", dilation_rate=2)
    for layer in (half, exact):
        layer.build(inputs.shape)
        layer.kernel.assign(np.abs(features(7, 7, 4, 1, seed=1)))
    expected = array(exact(inputs))
    difference = np.abs(array(keras.ops.cast(half(inputs), "float32")) - expected)
    assert difference.max() <= 8e-3 * expected.max()


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch alone saves tensors for the backward pass")
def test_torch_saves_what_checkpointing_can_drop():
    import torch

    layer = DepthwiseConvolution(7, padding="same", dilation_rate=3)
    saved = []
    inputs = torch.tensor(features(2, 12, 9, 4), requires_grad=True)
    layer(inputs)  # builds
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.shape) or t, lambda t: t
    ):
        layer(inputs, training=True)
    assert inputs.shape in saved
