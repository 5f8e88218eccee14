"""Gradient checkpointing: activations computed again in the backward pass, not kept for it."""

import keras
from keras import ops


def checkpointed_call(layer, function, inputs):
    """Calls `function(inputs)`, a part of `layer`, without storing its activations for the backward
    pass.

    The backward pass computes them again from the same inputs, weights and random seeds, so the
    gradients are those of a plain call (Chen et al. 2016, "Training Deep Nets with Sublinear Memory
    Cost"). Variables that `function` changes (BatchNorm statistics, random generators) are changed
    once.

    `keras.RematScope` does not work for such a layer: its second call draws other random numbers,
    which makes the gradients wrong, and it changes the statistics a second time under TensorFlow
    and PyTorch; under JAX they become leaked tracers. So here the layer's state is an argument and
    a result of the repeated function. `layer` must own every variable that `function` uses.
    """
    trainable, state = layer.trainable_variables, layer.non_trainable_variables
    assigned = []

    def repeated(inputs, weights, state_before):
        mapping = [*zip(trainable, weights, strict=True), *zip(state, state_before, strict=True)]
        with keras.StatelessScope(mapping) as scope:
            before = [scope.get_current_value(variable) for variable in state]
            outputs = function(inputs)
            after = [scope.get_current_value(variable) for variable in state]
        assigned[:] = [i for i, value in enumerate(after) if value is not before[i]]
        return outputs, [after[i] for i in assigned]

    # Under mixed precision weights come in the compute dtype here, as they would to the
    # layers that use them; Keras exempts statistics and seeds, which must not be rounded.
    weights = [variable.value for variable in trainable]
    # Copies: where variables change in place, the repetition would find the state after.
    state_before = [ops.copy(variable.value) for variable in state]
    call = {"tensorflow": _call_in_tensorflow, "jax": _call_in_jax, "torch": _call_in_torch}[
        keras.backend.backend()
    ]
    outputs, state_after = call(repeated, inputs, weights, state_before)
    for index, value in zip(assigned, state_after, strict=True):
        state[index].assign(value)
    return outputs


def _call_in_torch(function, inputs, weights, state):
    return keras.remat(function)(inputs, weights, state)


# XLA sees forward and backward pass in one program, and keeps a value that both compute
# instead of computing it twice. What `tf.recompute_grad` and, on CPUs, `jax.checkpoint` do
# against this XLA simplifies away. So here the repetition starts from what XLA must take
# for other inputs: from the inputs plus a zero made of the gradient. Computing that zero
# also makes the repetition wait until its results are needed.


def _zero_made_of(gradient, dtype):
    element = ops.sum(ops.reshape(gradient, (-1,))[:1])
    return ops.cast(ops.minimum(ops.abs(element), 0), dtype)


def _call_in_tensorflow(function, inputs, weights, state):
    import tensorflow as tf

    @tf.custom_gradient
    def checkpointed(inputs, weights, state):
        def backward(gradient, *_):
            again = inputs + _zero_made_of(gradient, inputs.dtype)
            with tf.GradientTape() as tape:
                tape.watch([again, *weights])
                outputs, _ = function(again, weights, state)
            for_inputs, *for_weights = tape.gradient(outputs, [again, *weights], gradient)
            return for_inputs, for_weights, [None] * len(state)

        # The tape around this keeps whatever is computed from a tensor that it watches.
        inputs_once, *weights_once = [tf.stop_gradient(value) for value in (inputs, *weights)]
        return function(inputs_once, weights_once, state), backward

    return checkpointed(inputs, [tf.convert_to_tensor(weight) for weight in weights], state)


def _call_in_jax(function, inputs, weights, state):
    import jax

    @jax.custom_vjp
    def checkpointed(inputs, weights, state):
        return function(inputs, weights, state)

    def forward(inputs, weights, state):
        return function(inputs, weights, state), (inputs, weights, state)

    def backward(arguments, gradients):
        inputs, weights, state = arguments
        again = inputs + _zero_made_of(gradients[0], inputs.dtype)
        _, vjp = jax.vjp(lambda *arguments: function(*arguments, state)[0], again, weights)
        return *vjp(gradients[0]), None

    checkpointed.defvjp(forward, backward)
    return checkpointed(inputs, weights, state)
