"""Copies of a model that are trained together: their number, and sums over all of them.

Under JAX there is one model, whatever the number of devices: its means are over the whole
batch as they stand.
"""

import contextlib
import functools

import keras
from keras import ops

BACKEND = keras.backend.backend()


def count():
    """Returns the number of copies that train together with this one, itself included, int."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        if tf.distribute.in_cross_replica_context():  # a model being built
            return 1
        return tf.distribute.get_strategy().num_replicas_in_sync
    if _torch_processes_are_together:
        import torch.distributed

        return torch.distributed.get_world_size()
    return 1


# Not known from PyTorch: processes that are joined may train each a model of its own. For all
# threads, as the backward pass of a checkpointed stage has its own.
_torch_processes_are_together = False


@contextlib.contextmanager
def together():
    """While it lasts, all of PyTorch's processes train copies of one model."""
    global _torch_processes_are_together
    _torch_processes_are_together = True
    try:
        yield
    finally:
        _torch_processes_are_together = False


def moments(inputs):
    """Mean and variance (over `n`) of each channel over the batches of all copies.

    As Keras's `BatchNormalization(synchronized=True)`, which works under TensorFlow only. Every
    copy must have as many images.
    """
    axes = (0, 1, 2)
    own = ops.stack([ops.mean(inputs, axes), ops.mean(ops.square(inputs), axes)])
    first, second = ops.unstack(total(own) / count(), axis=0)
    return first, ops.maximum(second - ops.square(first), 0.0)


def total(tensor):
    """The sum of a tensor over all copies, with its gradient."""
    if count() == 1:
        return tensor
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensor)
    return _torch_sum().apply(tensor)


@functools.cache
def _torch_sum():
    import torch
    import torch.distributed

    def summed(tensor):
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    class Sum(torch.autograd.Function):
        """The sum over all processes, each of which has a loss that depends on it."""

        @staticmethod
        def forward(ctx, tensor):
            return summed(tensor)

        @staticmethod
        def backward(ctx, upstream):
            return summed(upstream)

    return Sum
