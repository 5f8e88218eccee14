"""Several devices, processes or hosts that train one model, by each backend's own engine.

TensorFlow: `tf.distribute.MirroredStrategy` over the GPUs of a host, and
`MultiWorkerMirroredStrategy` over the hosts of `TF_CONFIG`. JAX: `keras.distribution`'s
`DataParallel` over all devices of all processes. PyTorch: `DistributedDataParallel` over the
processes that `torchrun` has started. A recipe's batch is that of all together.
"""

import atexit
import contextlib
import functools
import json
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

import keras

from dmformer_keras.errors import DMFormerError
from dmformer_keras.layers import replicas
from dmformer_keras.training.optimization import ReplicatedAdamW


class OneDevice:
    """Training on one device, in one process.

    Attributes:
        replicas: int, the devices that share a batch.
        process, processes: ints, which of the processes this is, and how many there are.
        has_copies: bool, whether each device has a model of its own, and sees a part of the batch.
        optimizer_class: what the optimizer has to be, or None.
    """

    has_copies = False
    replicas = 1
    process, processes = 0, 1
    optimizer_class: type | None = None

    @property
    def is_first(self):
        """Tells whether this process saves the results and prints."""
        return self.process == 0

    @contextlib.contextmanager
    def folder(self, output, resume):
        """The folder that this process writes to.

        All processes do the same, for in some backends what reads a weight takes all of them; what
        any but the first writes is forgotten.
        """
        if self.is_first:
            yield output
            return
        if resume and not output.is_dir():
            raise DMFormerError(
                f"Process {self.process} does not see the run to resume in {str(output)!r}; give "
                "a folder that all processes can read."
            )
        with tempfile.TemporaryDirectory() as own:
            if resume:
                ignored = shutil.ignore_patterns(".*")
                shutil.copytree(output, own, ignore=ignored, dirs_exist_ok=True)
            yield Path(own)

    @property
    def shard(self):
        """What part of each batch this process prepares, see `to_tf_dataset`."""
        return self.process, self.processes

    def building(self):
        """The context for building, compiling and restoring models."""
        return contextlib.nullcontext()

    def fitting(self):
        """The context of `fit`."""
        return contextlib.nullcontext()

    def evaluating(self):
        """The context, within `fitting`, for running a model in this process only."""
        return contextlib.nullcontext()

    def connect(self, model):
        """Makes a compiled model one of the copies that train together."""

    def batches(self, model, batches):
        """Returns this process's batches in the form that `fit` of a compiled model needs."""
        return batches

    def mean(self, figures):
        """Returns the means over all processes of a dict of floats."""
        return figures


class _TensorFlow(OneDevice):
    optimizer_class = ReplicatedAdamW

    def __init__(self):
        import tensorflow as tf

        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
        if sum(map(len, cluster.values())) > 1:
            self.strategy = _tensorflow_strategy(tf.distribute.MultiWorkerMirroredStrategy)
            resolver = self.strategy.cluster_resolver
            self.processes = sum(map(len, cluster.values()))
            self.process = _worker_number(cluster, resolver.task_type, resolver.task_id)
        else:
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            names = tuple(device.name for device in devices)
            self.strategy = _tensorflow_strategy(tf.distribute.MirroredStrategy, names)
        self.replicas = self.strategy.num_replicas_in_sync
        self.has_copies = self.replicas > 1

    def building(self):
        return self.strategy.scope()

    def batches(self, model, batches):
        with self.strategy.scope():
            model._symbolic_build(data_batch=batches.element_spec)
        # `fit` would do this itself, but averages over a worker's batch, and computes metrics in a
        # way that fails if the worker has one device.
        model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None
        model.train_function = self._train_function(model)
        share = batches.element_spec[0].shape[0] * self.processes // self.replicas
        return self.strategy.distribute_datasets_from_function(
            lambda context: batches.rebatch(share, drop_remainder=True)
        )

    def _train_function(self, model):
        import tensorflow as tf

        @tf.function(reduce_retracing=True)
        def step(iterator):
            metrics = self.strategy.run(model.train_step, args=(next(iterator),))
            return {
                name: self.strategy.reduce("MEAN", value, axis=None)
                for name, value in metrics.items()
            }

        return step


@functools.cache
def _tensorflow_strategy(kind, *arguments):
    """The one strategy of a process; a second one would number its reductions from 1 again."""
    return _started(lambda: kind(*arguments))


def _worker_number(cluster, task_type, task_id):
    """A process's number among all, the chief's being the first."""
    order = sorted(cluster, key=lambda kind: (kind != "chief", kind))
    before = order[: order.index(task_type)]
    return sum(len(cluster[kind]) for kind in before) + task_id


class _Jax(OneDevice):
    def __init__(self):
        import jax

        several = os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES")
        if several and not jax.distributed.is_initialized():
            _started(keras.distribution.initialize)
        self.distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        self.replicas = jax.device_count()
        self.process, self.processes = jax.process_index(), jax.process_count()

    def building(self):
        return self.distribution.scope()

    def fitting(self):
        return self.distribution.scope()

    @contextlib.contextmanager
    def evaluating(self):
        # Within `fitting`, or before it, when a resumed run saves its state.
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)


class _Torch(OneDevice):
    def __init__(self):
        import torch
        import torch.distributed

        if "WORLD_SIZE" not in os.environ:
            raise DMFormerError(
                "Training with PyTorch on several devices is one process per device; start it with "
                f"`torchrun --nproc-per-node=DEVICES {_module_of_command()} ...`."
            )
        on_gpus = torch.cuda.is_available()
        if on_gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if on_gpus else "gloo")
            # Not after each training: one process could join again while another is still leaving.
            atexit.register(torch.distributed.destroy_process_group)
        self.process = torch.distributed.get_rank()
        self.replicas = self.processes = torch.distributed.get_world_size()
        self.has_copies = self.replicas > 1

    def connect(self, model):
        from torch.nn.parallel import DistributedDataParallel

        copies = DistributedDataParallel(model)
        model.train_step = types.MethodType(_train_step_of(copies), model)

    def mean(self, figures):
        import torch
        import torch.distributed

        device = "cuda" if torch.cuda.is_available() else "cpu"
        total = torch.tensor(list(figures.values()), device=device)
        torch.distributed.all_reduce(total)
        return dict(zip(figures, (total / self.processes).tolist(), strict=True))

    def fitting(self):
        return replicas.together()


def _train_step_of(copies):
    """Keras's own step under PyTorch, but for the forward pass, which goes through the copies."""
    import torch

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self.zero_grad()
        y_pred = copies(x, training=True)
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        self._loss_tracker.update_state(loss, sample_weight=x.shape[0])
        self.optimizer.scale_loss(loss).backward()
        weights = self.trainable_weights[:]
        with torch.no_grad():
            self.optimizer.apply([weight.value.grad for weight in weights], weights)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    return train_step


def join(distribute):
    """Joins the devices and processes that train together; returns OneDevice, or what stands for
    more of them.
    """
    if not distribute:
        return OneDevice()
    kinds = {"tensorflow": _TensorFlow, "jax": _Jax, "torch": _Torch}
    backend = keras.backend.backend()
    if backend not in kinds:
        raise DMFormerError(
            f"Training on several devices is not possible with Keras's backend {backend}; set "
            "KERAS_BACKEND to tensorflow, jax or torch."
        )
    return kinds[backend]()


def _started(start):
    try:
        return start()
    except (RuntimeError, ValueError) as error:
        raise DMFormerError(
            f"The processes could not be joined: {error}; start training in a new process, "
            "before anything else has used the devices."
        ) from error


def _module_of_command():
    module = sys.modules["__main__"].__spec__
    return f"-m {module.name}" if module else "-m dmformer_keras.cli"
