"""What a contestant does over and over, on each framework that runs models itself."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

import numpy as np

from dmformer_keras.benchmark import models
from dmformer_keras.benchmark.contestants import LIMIT
from dmformer_keras.errors import DMFormerError

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.05
# Large enough that the cost of starting a product does not matter.
_LIMIT_SIZE = {"cpu": 2048, "gpu": 8192}


@dataclasses.dataclass
class Prepared:
    """A contestant ready to run.

    Attributes:
        step: function without arguments that runs one batch, or one training step, and
            returns its outputs or its loss only once they are computed.
        parameters: int or None.
        multiply_accumulates: int, of an image's forward pass; None where uncounted.
    """

    step: Callable
    parameters: int | None
    multiply_accumulates: int | None


def prepare(contestant):
    """Builds a contestant that a framework runs itself."""
    framework = contestant.runtime.split("-")[0]
    if framework != "numpy":
        _check_device(framework, contestant.device)
    if contestant.model == LIMIT:
        return _matrix_product(contestant)
    if contestant.library == "timm":
        return _timm(contestant)
    model = models.build_keras_model(contestant)
    counts = models.count_keras_model(contestant, model)
    if contestant.mode == "training":
        return Prepared(_keras_training(contestant, model), *counts)
    inference = {"tensorflow": _tensorflow, "jax": _jax, "torch": _keras_torch}[framework]
    return Prepared(inference(contestant, model), *counts)


def gpu_memory(contestant):
    """Returns (function that forgets the GPU's peak so far, function that gives it in bytes)."""
    framework = contestant.runtime.split("-")[0]
    if framework == "torch":
        import torch

        return torch.cuda.reset_peak_memory_stats, torch.cuda.max_memory_allocated
    if framework == "tensorflow":
        import tensorflow as tf

        statistics = tf.config.experimental
        return (
            lambda: statistics.reset_memory_stats("GPU:0"),
            lambda: statistics.get_memory_info("GPU:0")["peak"],
        )
    import jax

    # JAX cannot reset its peak, which includes the memory of compilation.
    return lambda: None, lambda: jax.devices()[0].memory_stats()["peak_bytes_in_use"]


def _check_device(framework, device):
    if framework == "tensorflow":
        import tensorflow as tf

        found = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    elif framework == "jax":
        import jax

        found = jax.default_backend()
    else:
        import torch

        found = "gpu" if torch.cuda.is_available() else "cpu"
    if found != device:
        raise DMFormerError(f"{framework} finds no GPU here; measure on the CPU (--device cpu).")


def _tensorflow(contestant, model):
    import tensorflow as tf

    images = tf.constant(models.random_images(contestant))
    function = tf.function(
        lambda batch: model(batch, training=False),
        autograph=False,
        jit_compile=contestant.runtime == "tensorflow-xla",
    )
    # Fetching the logits waits until the GPU has finished.
    return lambda: function(images).numpy()


def _jax(contestant, model):
    import jax

    images = jax.device_put(models.random_images(contestant))
    state = (
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in model.non_trainable_variables],
    )
    function = jax.jit(lambda *state_and_images: model.stateless_call(*state_and_images)[0])
    return lambda: jax.block_until_ready(function(*state, images))


def _keras_torch(contestant, model):
    import keras

    images = keras.ops.convert_to_tensor(models.random_images(contestant))
    return _torch_inference(contestant, lambda batch: model(batch, training=False), images)


def _keras_training(contestant, model):
    import keras

    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=contestant.runtime in ("tensorflow-xla", "jax", "torch-compile"),
    )
    # Already on the device, as with a pipeline that prefetches.
    images = keras.ops.convert_to_tensor(models.random_images(contestant))
    labels = keras.ops.convert_to_tensor(models.random_labels(contestant).astype("int32"))
    return lambda: model.train_on_batch(images, labels)


def _timm(contestant):
    import torch

    model, *counts = models.build_timm_model(contestant)
    device = "cuda" if contestant.device == "gpu" else "cpu"
    dtype = torch.bfloat16 if contestant.dtype == "bfloat16" else torch.float32
    place = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
    model = model.to(**place)
    images = torch.from_numpy(models.random_images(contestant)).to(**place)
    if contestant.mode == "training":
        step = _timm_training(contestant, model.train(), images)
    else:
        step = _torch_inference(contestant, model, images)
    return Prepared(step, *counts)


def _torch_inference(contestant, function, images):
    import torch

    precision = _autocast(contestant)
    if contestant.runtime == "torch-compile":
        function = torch.compile(function)

    def step():
        with torch.inference_mode(), precision():
            outputs = function(images)
        if contestant.device == "gpu":
            torch.cuda.synchronize()
        return outputs

    return step


def _timm_training(contestant, model, images):
    import torch

    labels = torch.from_numpy(models.random_labels(contestant)).to(images.device)
    precision = _autocast(contestant)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    forward = torch.compile(model) if contestant.runtime == "torch-compile" else model

    def step():
        with precision():
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if contestant.device == "gpu":
            torch.cuda.synchronize()
        return loss.item()

    return step


def _autocast(contestant):
    """Returns what makes torch's context of timm's models in mixed precision."""
    import torch

    if contestant.library != "timm" or contestant.dtype != "mixed_bfloat16":
        return contextlib.nullcontext
    device = "cuda" if contestant.device == "gpu" else "cpu"
    return lambda: torch.autocast(device, dtype=torch.bfloat16)


def _matrix_product(contestant):
    """Two square matrices, multiplied: as many multiply-accumulates as the size's cube."""
    size = _LIMIT_SIZE[contestant.device]
    factors = np.random.default_rng(0).normal(size=(2, size, size)).astype("float32")
    if contestant.runtime == "numpy":
        step = _numpy_product(factors)
    elif contestant.runtime == "jax":
        step = _jax_product(factors, contestant.dtype)
    else:
        step = _torch_product(factors, contestant)
    return Prepared(step, None, size**3)


def _numpy_product(factors):
    outputs = np.empty_like(factors[0])
    return lambda: np.matmul(*factors, out=outputs)


def _jax_product(factors, dtype):
    import jax
    import jax.numpy as jnp

    left, right = (jnp.asarray(factor, dtype) for factor in factors)
    multiply = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(multiply(left, right))


def _torch_product(factors, contestant):
    import torch

    device = "cuda" if contestant.device == "gpu" else "cpu"
    dtype = getattr(torch, contestant.dtype)
    left, right = (torch.from_numpy(factor).to(device, dtype) for factor in factors)
    outputs = torch.empty_like(left)

    def step():
        torch.mm(left, right, out=outputs)
        if device == "cuda":
            torch.cuda.synchronize()
        return outputs

    return step


def first_values(outputs):
    """Returns up to 8 numbers of a step's outputs as floats, or raises if one is not finite."""
    if hasattr(outputs, "detach"):
        outputs = outputs.detach().float().cpu()
    values = np.asarray(outputs, "float32").reshape(-1)[:8].tolist()
    if not all(map(math.isfinite, values)):
        raise DMFormerError(f"The outputs are not finite ({values}); measure in float32.")
    return values
