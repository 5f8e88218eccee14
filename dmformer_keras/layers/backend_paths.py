"""The one place where backends differ: each operation in the form that is fast there.

Each path has its reason beside it. All give Keras's values and gradients, to float32
rounding. On GPUs and TPUs the convolutions are the framework's own (without Keras's copies
to another layout before them, under PyTorch).
"""

import contextlib
import contextvars
import functools
import math
import sys
import threading

import keras
from keras import ops

from dmformer_keras.layers.filter_gradient import (
    depthwise_filter_gradient,
    torch_depthwise_filter_gradient,
)

BACKEND = keras.backend.backend()

# oneDNN's compiled depthwise kernels take at most this much padding beside a row (the
# width of their block of registers, narrower in maps of few columns); beyond it they leave the work
# to plain loops.
ONEDNN_LARGEST_PADDING = 6
ONEDNN_NARROW = 7
ONEDNN_LARGEST_PADDING_IF_NARROW = 4

# XNNPACK, which runs TFLite files, has compiled depthwise kernels of up to 25 taps; larger
# ones go through memory several times.
XNNPACK_LARGEST_KERNEL = 25

# PyTorch runs one operation after the other, and calling one through Keras takes longer than many
# of the small ones of this gradient take.
_filter_gradient = (
    torch_depthwise_filter_gradient if BACKEND == "torch" else depthwise_filter_gradient
)

# XLA fuses Keras's elementary operations by itself.
HAS_FUSED_BATCH_NORM = BACKEND in ("tensorflow", "torch")


def convolution(
    inputs, kernel, bias, strides, padding, dilations, data_format, training, activation=None
):
    """Convolution in its fastest form; arguments and values are those of `keras.ops.conv`."""
    channels_last = data_format == "channels_last"
    pointwise = tuple(kernel.shape[:2]) == (1, 1) and set(strides) == {1}
    if pointwise and channels_last and _prefers_matrix_product(inputs, training):
        positions = ops.reshape(inputs, (-1, kernel.shape[2]))
        product = dense(positions, kernel[0, 0], bias, activation)
        return ops.reshape(product, (*ops.shape(inputs)[:3], kernel.shape[3]))
    if BACKEND == "torch" and channels_last:
        return _torch_convolution(
            inputs, kernel, bias, strides, padding, dilations, activation=activation
        )
    outputs = ops.conv(inputs, kernel, strides, padding, data_format, dilations)
    return _activated(add_bias(outputs, bias, data_format), activation)


def dense(inputs, kernel, bias, activation=None):
    """The product of `(positions, channels)` with a kernel `(channels, units)`, in its fast form.

    Takes a feature map instead where `positions_stay_maps()`.
    """
    if len(inputs.shape) == 4:
        outputs = ops.conv(inputs, kernel[None, None], 1, "valid", "channels_last")
        return _activated(add_bias(outputs, bias, "channels_last"), activation)
    if BACKEND == "torch" and _onednn_multiplies(inputs):
        return _torch_dense(inputs, kernel, bias, activation)
    outputs = ops.matmul(inputs, kernel)
    return _activated(outputs if bias is None else ops.add(outputs, bias), activation)


def _torch_dense(inputs, kernel, bias, activation):
    """The product by oneDNN, which has twice the speed of PyTorch's own on AMD's processors.

    PyTorch leaves float32 products to MKL: 100 of oneDNN's 220 GFLOP/s on a core with AVX-512.
    """
    import torch

    if torch.is_grad_enabled():
        outputs = _torch_product().apply(inputs, kernel)
        return _activated(outputs if bias is None else outputs + bias, activation)
    name, form = _ONEDNN_ACTIVATIONS.get(activation, ("none", ""))
    outputs = torch.ops.mkldnn._linear_pointwise(inputs, kernel.t(), bias, name, [], form)
    return outputs if name != "none" else _activated(outputs, activation)


@functools.cache
def _torch_product():
    import torch

    multiply = torch.ops.mkldnn._linear_pointwise

    class Product(torch.autograd.Function):
        """A matrix product by oneDNN; its gradients are such products, too."""

        @staticmethod
        def forward(ctx, first, second):
            ctx.save_for_backward(first, second)
            return multiply(first, second.t(), None, "none", [], "")

        @staticmethod
        def backward(ctx, upstream):
            first, second = ctx.saved_tensors
            to_first = to_second = None
            if ctx.needs_input_grad[0]:
                to_first = Product.apply(upstream, second.t())
            if ctx.needs_input_grad[1]:
                # The sum over all positions is faster with fewer rows than columns.
                if second.shape[0] <= second.shape[1]:
                    to_second = Product.apply(first.t(), upstream)
                else:
                    to_second = Product.apply(upstream.t(), first).t()
            return to_first, to_second

    return Product


def _activated(outputs, activation):
    return outputs if activation is None else activation(outputs)


def exact_gelu(x):
    """The exact GELU, in the form that is fast on the backend."""
    if BACKEND != "tensorflow":
        return keras.activations.gelu(x, approximate=False)
    # TensorFlow's own form, `0.5 x erfc(-x / sqrt(2))`, is three passes over memory; this
    # one is recognized behind a matrix product and computed in the same kernel, in
    # TFLite too (as GELU). The same within float32 rounding.
    return ops.multiply(0.5 * x, ops.erf(x * math.sqrt(0.5)) + 1.0)


# What oneDNN computes with a convolution, without a pass over the map: its name, and its form.
_ONEDNN_ACTIVATIONS = {keras.activations.relu: ("relu", ""), exact_gelu: ("gelu", "none")}


def activation_inside(activation):
    """The activation, if it may be computed inside an operator: of each number alone. Else None.

    Inside, a map may be a table of positions, or divided into phases.
    """
    return activation if activation in tuple(_ONEDNN_ACTIVATIONS) else None


def _onednn_computes(activation, inputs):
    """Tells whether oneDNN may compute an activation with a convolution, under PyTorch."""
    import torch

    return (
        activation in _ONEDNN_ACTIVATIONS
        and not torch.is_grad_enabled()
        and _onednn_takes(inputs)
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def _onednn_multiplies(inputs):
    """Tells whether oneDNN computes a product faster than MKL, or as fast, under PyTorch."""
    import torch

    return (
        _onednn_takes(inputs)
        and "AVX" in torch.backends.cpu.get_cpu_capability()  # measured there
        and not torch.is_autocast_enabled("cpu")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _onednn_takes(inputs):
    """Tells whether the operators that PyTorch's compiler uses may be called.

    They have no gradients, and no exporter knows them, nor do transforms of functions
    (`torch.func`, forward-mode derivatives), whose tensors look plain.
    """
    import torch

    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and type(inputs) is torch.Tensor  # not one of a tracer
        and inputs.dtype == torch.float32
        and inputs.device.type == "cpu"
        and inputs.numel() > 0
        and torch.backends.mkldnn.is_available()
        and not torch.jit.is_tracing()
    )


def add_bias(outputs, bias, data_format):
    """Adds a bias `(channels,)` or None to each channel."""
    if bias is None:
        return outputs
    if data_format == "channels_first":
        # The bias first: Keras under TensorFlow takes a second summand for a bias of the
        # last axis, the width here, where that is as long.
        return ops.add(ops.reshape(bias, (1, -1, 1, 1)), outputs)
    return ops.add(outputs, bias)


def _prefers_matrix_product(inputs, training):
    """Tells whether a 1x1 convolution shall be computed as a matrix product.

    In TensorFlow the gradients of a convolution take 1.2 to 1.6 times as long as those of the
    product, and the forward pass takes the same time; converters expect a convolution in an
    exported file. XLA transposes the inputs of a convolution's gradient, and PyTorch changes the
    layout before a convolution; a product needs neither.
    """
    if not _on_cpu(inputs) or positions_stay_maps():
        return False
    return training or BACKEND != "tensorflow"


def _torch_convolution(
    inputs, kernel, bias, strides, padding, dilations, groups=1, activation=None
):
    """Convolves channels_last tensors without copying them to another layout.

    Keras copies the input to channels_first and back for each convolution, which took a fifth of a
    training step. A tensor that is only permuted already has the layout that PyTorch needs.
    """
    import torch

    if padding == "same":
        margins = [
            same_margins(*axis)
            for axis in zip(inputs.shape[1:3], kernel.shape[:2], strides, dilations, strict=True)
        ]
        symmetric = all(before == after for before, after in margins)
        if not symmetric:
            inputs = ops.pad(inputs, ((0, 0), *margins, (0, 0)))
        padding = [before for before, _ in margins] if symmetric else [0, 0]
    else:
        padding = [0, 0]
    operands = inputs.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias
    if _onednn_computes(activation, inputs):
        name, form = _ONEDNN_ACTIVATIONS[activation]
        outputs = torch.ops.mkldnn._convolution_pointwise(
            *operands, padding, strides, dilations, groups, name, [], form
        )
        return outputs.permute(0, 2, 3, 1)
    outputs = torch.nn.functional.conv2d(*operands, strides, padding, dilations, groups)
    return _activated(outputs.permute(0, 2, 3, 1), activation)


def same_margins(size, kernel_size, stride, dilation):
    """Returns the number of zeros before and after an axis for "same" padding."""
    reach = (-(-size // stride) - 1) * stride + dilation * (kernel_size - 1) + 1
    total = max(reach - size, 0)
    return total // 2, total - total // 2


def normalize_by_batch(inputs, scale, offset, epsilon):
    """BatchNorm of a float32 channels_last map by the batch's own statistics, as one operation.

    Returns `(outputs, mean, variance)`; the variance is over `n`, not `n - 1`.
    """
    if BACKEND == "torch":
        import torch

        flat = inputs.reshape(-1, inputs.shape[-1])
        outputs, mean, inverse = torch.native_batch_norm(
            flat, scale, offset, None, None, True, 0.0, epsilon
        )
        variance = (inverse.detach() ** -2 - epsilon).clamp_min(0)
        return outputs.reshape(inputs.shape), mean.detach(), variance
    import tensorflow as tf

    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        inputs, scale, offset, epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), "float32")
    variance = variance * ((count - 1.0) / count)  # TensorFlow's is over `n - 1`
    return outputs, tf.stop_gradient(mean), tf.stop_gradient(variance)


def depthwise_convolution(inputs, kernel, bias, dilations, data_format, training, activation=None):
    """Depthwise convolution of stride 1, "same" padding and odd kernel sizes, in its fastest form.

    With `training=False` gradients are left to the framework: one of this project's own would
    prevent an export.
    """
    if _for_tflite.get() and data_format == "channels_last":
        return _activated(_for_xnnpack(inputs, kernel, bias, dilations), activation)
    if not _on_cpu(inputs):
        outputs = _framework_form(inputs, kernel, dilations, data_format)
        return _activated(add_bias(outputs, bias, data_format), activation)
    if data_format == "channels_first":
        inputs = ops.transpose(inputs, (0, 2, 3, 1))
    outputs = _depthwise_on_cpu(inputs, kernel, bias, dilations, training, activation)
    return ops.transpose(outputs, (0, 3, 1, 2)) if data_format == "channels_first" else outputs


_for_tflite = contextvars.ContextVar("for_tflite", default=False)


@contextlib.contextmanager
def for_tflite():
    """In this context models are traced in the form that is fast in a TFLite file."""
    token = _for_tflite.set(True)
    try:
        yield
    finally:
        _for_tflite.reset(token)


_for_onnx = contextvars.ContextVar("for_onnx", default=False)


@contextlib.contextmanager
def for_onnx():
    """In this context models are traced without the remedies for PyTorch's own kernels."""
    token = _for_onnx.set(True)
    try:
        yield
    finally:
        _for_onnx.reset(token)


def positions_stay_maps():
    """Tells whether 1x1 convolutions stay convolutions of maps, and are not products of tables.

    TFLite computes both alike. But a reshape before and after costs a pass over memory and fixes
    the size of the image, and XNNPACK has none between int8 operators.
    """
    return _for_tflite.get()


def _for_xnnpack(inputs, kernel, bias, dilations):
    """A depthwise convolution for TFLite; a large kernel is a sum of kernels with fewer rows."""
    rows, columns = kernel.shape[:2]
    margins = _margins(kernel, dilations)
    rate, (above, _) = dilations[0], margins[0]
    padded, outputs = None, None
    for first, last in _groups_of_rows(rows, max(XNNPACK_LARGEST_KERNEL // columns, 1)):
        taps = kernel[first : last + 1]
        if first + last == rows - 1:
            part = _dilated_operator(inputs, taps, dilations, "SAME")
        else:
            padded = ops.pad(inputs, ((0, 0), *margins, (0, 0))) if padded is None else padded
            # From the end, for the height may be known only when the file runs.
            seen = padded[:, first * rate : (last * rate - 2 * above) or None]
            part = _dilated_operator(seen, taps, dilations, "VALID")
        # With the first sum's bias, where it is part of the operator, not a pass of its own.
        outputs = add_bias(part, bias, "channels_last") if outputs is None else outputs + part
    return outputs


def _groups_of_rows(rows, most):
    """Yields (first, last) of groups of up to `most` rows, with the remaining rows in the middle.

    A group around the middle needs no padding of its own, and a kernel of up to 9 taps takes a
    third of the time of a larger one.
    """
    first, last = 0, rows - 1
    while last - first >= most:
        yield first, first + most - 1
        first += most
        if last - first >= most:
            yield last - most + 1, last
            last -= most
    yield first, last


def _dilated_operator(inputs, kernel, dilations, padding):
    """The framework's dilated operator, which converters can read for maps of any size.

    TensorFlow's CPU kernels have no dilation: `tf.nn.depthwise_conv2d` reorders the map before and
    after, which converters recognize for fixed sizes only.
    """
    if BACKEND == "torch":
        return _torch_depthwise(inputs, kernel, dilations, padding.lower())
    import tensorflow as tf

    return tf.raw_ops.DepthwiseConv2dNative(
        input=inputs,
        filter=tf.convert_to_tensor(kernel),
        strides=(1, 1, 1, 1),
        padding=padding,
        dilations=(1, *dilations, 1),
    )


def _depthwise_on_cpu(inputs, kernel, bias, dilations, training, activation):
    if BACKEND == "torch" and not training and tuple(kernel.shape[:2]) != (1, 1):
        # oneDNN adds the bias in the same pass.
        if _for_onnx.get() or not _sizes_are_known(inputs):
            return _torch_depthwise(inputs, kernel, dilations, "same", bias, activation)
        return _phases_where_onednn_fails(inputs, kernel, dilations, bias, activation)
    outputs = _without_bias_on_cpu(inputs, kernel, dilations, training)
    return _activated(add_bias(outputs, bias, "channels_last"), activation)


def _sizes_are_known(inputs):
    """Tells whether height and width are numbers: neither unknown nor symbols."""
    return all(isinstance(size, int) for size in inputs.shape[1:3])


def _without_bias_on_cpu(inputs, kernel, dilations, training):
    if tuple(kernel.shape[:2]) == (1, 1):
        return inputs * ops.reshape(kernel, (-1,))
    if not _sizes_are_known(inputs):
        return _framework_form(inputs, kernel, dilations)
    if BACKEND == "jax":
        # Called outside of a compiled function, each of the many products would be an
        # operation of its own; inside one, this inner compilation melts away.
        return _compiled_on_jax()(inputs, kernel, dilations, training)
    if BACKEND == "tensorflow" and _traced_for_xla():
        return _with_gradients(_shifted_products, dilations)(inputs, kernel)
    forward = _phases_where_onednn_fails if BACKEND == "torch" else _framework_form
    if training and max(dilations) > 1:
        return _with_gradients(forward, dilations)(inputs, kernel)
    return forward(inputs, kernel, dilations)


def _with_gradients(forward, dilations):
    """Returns `forward` with gradients that are computed by `forward` and by matrix products.

    Frameworks compute the gradient to a dilated depthwise kernel in plain loops, which was a third
    of a training step. The gradient to the input is a convolution with the flipped kernel, so
    `forward` computes it.
    """

    if BACKEND == "torch":
        return functools.partial(_torch_function().apply, forward, dilations)

    @ops.custom_gradient
    def convolution(inputs, kernel):
        def gradients(upstream):
            return _gradients(forward, dilations, inputs, kernel, upstream)

        return forward(inputs, kernel, dilations), gradients

    if BACKEND == "tensorflow":
        import tensorflow as tf

        # A variable would be none of the arguments whose gradient is asked for.
        return lambda inputs, kernel: convolution(inputs, tf.convert_to_tensor(kernel))
    return convolution


def _gradients(forward, dilations, inputs, kernel, upstream):
    # One axis at a time: before 3.14 Keras takes no more of them under TensorFlow.
    turned = ops.flip(ops.flip(kernel, 0), 1)
    to_inputs = forward(upstream, turned, dilations)
    to_kernel = _filter_gradient(inputs, upstream, kernel.shape[:2], dilations)
    return to_inputs, ops.cast(to_kernel, kernel.dtype)


@functools.cache
def _torch_function():
    import torch

    class DepthwiseFunction(torch.autograd.Function):
        """Unlike Keras's `custom_gradient`, lets gradient checkpointing drop what it saved."""

        @staticmethod
        def forward(ctx, forward, dilations, inputs, kernel):
            ctx.save_for_backward(inputs, kernel)
            ctx.forward, ctx.dilations = forward, dilations
            return forward(inputs, kernel, dilations)

        @staticmethod
        def backward(ctx, upstream):
            gradients = _gradients(ctx.forward, ctx.dilations, *ctx.saved_tensors, upstream)
            return None, None, *gradients

    return DepthwiseFunction


def _framework_form(inputs, kernel, dilations, data_format="channels_last"):
    if BACKEND == "torch" and data_format == "channels_last":
        return _torch_depthwise(inputs, kernel, dilations, "same")
    padding = "same"
    sides = inputs.shape[1:3] if data_format == "channels_last" else inputs.shape[2:4]
    if BACKEND == "tensorflow" and max(dilations) > 1 and None in sides:
        # TensorFlow's optimizer of graphs takes a side for another where one is known only.
        margins = _margins(kernel, dilations)
        around = ((0, 0), *margins, (0, 0))
        if data_format == "channels_first":
            around = ((0, 0), (0, 0), *margins)
        inputs, padding = ops.pad(inputs, around), "valid"
    return ops.depthwise_conv(
        inputs, kernel, 1, padding, data_format=data_format, dilation_rate=dilations
    )


def _torch_depthwise(inputs, kernel, dilations, padding, bias=None, activation=None):
    kernel = ops.transpose(kernel, (0, 1, 3, 2))
    groups = kernel.shape[-1]
    return _torch_convolution(inputs, kernel, bias, (1, 1), padding, dilations, groups, activation)


def _margins(kernel, dilations):
    """Returns the zeros before and after each axis for "same" padding at stride 1."""
    sizes = zip(kernel.shape[:2], dilations, strict=True)
    return [(size // 2 * dilation,) * 2 for size, dilation in sizes]


def _shifted_products(inputs, kernel, dilations):
    """The sum over the taps of tap times shifted map, which XLA compiles to one loop.

    XLA has no depthwise convolution for CPUs: its general one is 20 to 100 times slower.
    """
    height, width = inputs.shape[1:3]
    vertical, horizontal = dilations
    margins = _margins(kernel, dilations)
    # In float32, for so many sums in half precision would round each time.
    padded = ops.cast(ops.pad(inputs, ((0, 0), *margins, (0, 0))), "float32")
    taps = ops.cast(kernel, "float32")
    outputs = None
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            top, left = row * vertical, column * horizontal
            shifted = padded[:, top : top + height, left : left + width]
            product = shifted * taps[row, column, :, 0]
            outputs = product if outputs is None else outputs + product
    return ops.cast(outputs, inputs.dtype)


@functools.cache
def _compiled_on_jax():
    import jax

    def form(inputs, kernel, dilations, training):
        if training:
            return _with_gradients(_shifted_products, dilations)(inputs, kernel)
        return _shifted_products(inputs, kernel, dilations)  # has forward-mode derivatives too

    return jax.jit(form, static_argnums=(2, 3))


def _phases_where_onednn_fails(inputs, kernel, dilations, bias=None, activation=None):
    """Dilated convolution as dense convolutions over the phases of the map, if that is faster."""
    margin = kernel.shape[1] // 2 * dilations[1]
    narrow = inputs.shape[2] <= ONEDNN_NARROW
    most = ONEDNN_LARGEST_PADDING_IF_NARROW if narrow else ONEDNN_LARGEST_PADDING
    if max(dilations) == 1 or margin <= most:
        return _torch_depthwise(inputs, kernel, dilations, "same", bias, activation)
    (height, width, channels), (vertical, horizontal) = inputs.shape[1:], dilations
    rows, columns = -(-height // vertical), -(-width // horizontal)
    surplus = (rows * vertical - height, columns * horizontal - width)
    x = ops.pad(inputs, ((0, 0), (0, surplus[0]), (0, surplus[1]), (0, 0)))
    x = ops.reshape(x, (-1, rows, vertical, columns, horizontal, channels))
    x = ops.reshape(ops.transpose(x, (0, 2, 4, 1, 3, 5)), (-1, rows, columns, channels))
    x = _torch_depthwise(x, kernel, (1, 1), "same", bias, activation)
    x = ops.reshape(x, (-1, vertical, horizontal, rows, columns, channels))
    x = ops.transpose(x, (0, 3, 1, 4, 2, 5))
    x = ops.reshape(x, (-1, rows * vertical, columns * horizontal, channels))
    return x[:, :height, :width]


def resize(features, size, interpolation, data_format):
    """`keras.ops.image.resize`, also to a size that is known only when the model runs.

    Such a size is a pair of scalar tensors, under TensorFlow only.
    """
    axes = (1, 2) if data_format == "channels_last" else (2, 3)
    if all(isinstance(side, int) for side in size):
        if size == tuple(features.shape[axis] for axis in axes):
            return features
        return ops.image.resize(
            features, size, interpolation=interpolation, data_format=data_format
        )
    # Keras asks whether the size is positive, which a tensor that is being traced cannot say.
    import tensorflow as tf

    if data_format == "channels_first":
        features = ops.transpose(features, (0, 2, 3, 1))
    resized = tf.image.resize(features, size, method=interpolation)
    return ops.transpose(resized, (0, 3, 1, 2)) if data_format == "channels_first" else resized


def _on_cpu(tensor):
    """Tells whether the backend computes on a CPU; elsewhere the framework's forms are used."""
    if BACKEND == "torch":
        return tensor.device.type == "cpu"
    if BACKEND == "jax":
        import jax

        return jax.default_backend() == "cpu"
    return _tensorflow_has_only_cpus()


@functools.cache
def _tensorflow_has_only_cpus():
    import tensorflow as tf

    return not any(tf.config.get_visible_devices(kind) for kind in ("GPU", "TPU"))


def _traced_for_xla():
    """Tells whether TensorFlow is tracing a function that XLA will compile.

    TensorFlow has no API for this, but the function that is being traced is on the call stack. If
    it is not (an inner function traced before, the thread of a replica), the answer is no, which is
    slow but right.
    """
    from tensorflow.python.eager.polymorphic_function.polymorphic_function import Function

    frame = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        # Of TensorFlow's class only: Keras's models have an attribute of this name as well.
        if isinstance(caller, Function) and getattr(caller, "_jit_compile", None):
            return True
        frame = frame.f_back
    return False


def no_gradients():
    """Returns a context in which PyTorch stores nothing for a backward pass.

    TensorFlow and JAX store nothing unless gradients are requested.
    """
    if BACKEND == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


# One model must not predict from several threads at once in two of the frameworks:
# - JAX: Keras's `predict_on_batch` gives the arrays of the weights away and puts others in their
#   place, so another thread finds them deleted.
# - TensorFlow 2.21 on a CPU: the first runs of a graph with 1x1 convolutions, several at once,
#   gave wrong outputs for one of 30 models, a plain Keras model among them, and sometimes crashed;
#   never with TF_ENABLE_ONEDNN_OPTS=0, and never one after the other.
_ONE_AT_A_TIME = threading.Lock()


def predicting(framework=BACKEND):
    """The context in which a framework may predict from any thread."""
    return contextlib.nullcontext() if framework == "torch" else _ONE_AT_A_TIME
