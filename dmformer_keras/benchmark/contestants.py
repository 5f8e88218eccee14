"""Who takes part: models, their forms, the runtimes, and which of them go together."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

from dmformer_keras import presets
from dmformer_keras.errors import DMFormerError

FORMS = {
    "fused": "the exact inference form of `dmformer_keras.fuse`",
    "plain": "Keras's own convolutions and BatchNorm in place of this project's",
    "checkpointed": "gradient checkpointing in all four stages",
}
MODES = ("inference", "training")
DTYPES = ("float32", "bfloat16", "mixed_bfloat16")
# The models measured for each library. The training peers are small models that people train
# on small data.
PEERS = {
    "keras": {
        "inference": ("ConvNeXtTiny", "ResNet50V2"),
        "training": ("ConvNeXtTiny", "ResNet50V2", "EfficientNetV2B0", "MobileNetV3Large"),
    },
    "keras-hub": dict.fromkeys(MODES, ("mit_b2", "swin_tiny", "resnet50")),
    "timm": dict.fromkeys(
        MODES, ("convnext_tiny", "swin_tiny_patch4_window7_224", "inception_next_tiny", "resnet50")
    ),
}
LIMIT = "matmul"
_PACKAGES = {"keras-hub": ("keras_hub",), "timm": ("torch", "timm", "torchvision")}
_KERAS = ("dmformer", "keras", "keras-hub")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What runs a model.

    Attributes:
        packages: importable modules it needs.
        backend: Keras's backend of its process, or of the process that converts Keras's
            models for it.
        libraries: whose models it takes.
        gpu: bool, whether it also runs on a GPU.
        trains: bool, whether it takes training steps.
        dtypes: what it computes in.
        converts: bool, whether it runs a file that another process converted.
    """

    packages: tuple
    backend: str | None
    libraries: tuple = (*_KERAS, LIMIT)
    gpu: bool = True
    trains: bool = True
    dtypes: tuple = DTYPES
    converts: bool = False


_EXPORTED = {"gpu": False, "trains": False, "converts": True}
RUNTIMES = {
    "tensorflow": Runtime(("tensorflow",), "tensorflow", _KERAS),
    "tensorflow-xla": Runtime(("tensorflow",), "tensorflow", _KERAS),
    "jax": Runtime(("jax",), "jax"),
    "torch": Runtime(("torch",), "torch", (*_KERAS, "timm", LIMIT)),
    "torch-compile": Runtime(("torch",), "torch", (*_KERAS, "timm")),
    "numpy": Runtime((), None, (LIMIT,), gpu=False, trains=False, dtypes=("float32",)),
    # Keras's ONNX export under TensorFlow writes operators that ONNX does not have (keras 3.15,
    # tf2onnx 1.17); under torch it does not.
    "onnxruntime": Runtime(
        ("onnxruntime", "onnxscript", "torch"),
        "torch",
        (*_KERAS, "timm"),
        dtypes=("float32",),
        **_EXPORTED,
    ),
    # OpenVINO makes a faster model from TensorFlow's graph, and cannot read this project's torch
    # graphs.
    "openvino": Runtime(
        ("openvino", "tensorflow"),
        "tensorflow",
        (*_KERAS, "timm"),
        dtypes=("float32", "bfloat16"),
        **_EXPORTED,
    ),
    "tflite": Runtime(
        ("ai_edge_litert", "tensorflow"), "tensorflow", _KERAS, dtypes=("float32",), **_EXPORTED
    ),
}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One line of the table.

    Attributes:
        model: str: a preset's name or folder, `keras/NAME`, `keras-hub/NAME`, `timm/NAME`,
            or `matmul`, the arithmetic limit.
        runtime: str, a key of `RUNTIMES`.
        forms: tuple of keys of `FORMS`.
        mode: `"inference"` or `"training"`.
        batch_size: positive int.
        image_size: (height, width) in pixels.
        dtype: one of `DTYPES`.
        device: `"cpu"` or `"gpu"`.

    Example:

    >>> Contestant("dmformer_s", "openvino", ("fused",)).name
    'dmformer_s:fused@openvino'
    """

    model: str
    runtime: str
    forms: tuple = ()
    mode: str = "inference"
    batch_size: int = 1
    image_size: tuple = (224, 224)
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def library(self) -> str:
        if self.model == LIMIT:
            return LIMIT
        library, slash, _ = self.model.partition("/")
        return library if slash and library in PEERS else "dmformer"

    @property
    def name(self) -> str:
        return f"{':'.join((self.model, *self.forms))}@{self.runtime}"

    @property
    def label(self) -> str:
        """The name, the mode and the sizes."""
        height, width = self.image_size
        return f"{self.name} {self.mode} {self.batch_size}x{height}x{width} {self.dtype}"

    def left_out(self) -> str | None:
        """Returns why it cannot take part here, or None."""
        runtime = RUNTIMES[self.runtime]
        needed = (*runtime.packages, *_PACKAGES.get(self.library, ()))
        if self.runtime == "openvino" and self.library == "timm":
            needed = ("openvino", *_PACKAGES["timm"])
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            return f"not installed: {', '.join(missing)}"
        if self.library not in runtime.libraries:
            return f"{self.runtime} does not run models of {self.library}"
        if self.device == "gpu" and not runtime.gpu:
            return f"{self.runtime} is measured on the CPU only"
        if self.mode == "training" and not (runtime.trains and "fused" not in self.forms):
            return "what is fused or exported does not train"
        if self.dtype not in runtime.dtypes:
            return f"{self.runtime} is not measured in {self.dtype}"
        if self.runtime == "tflite" and self.batch_size != 1:
            return "a TFLite file takes one image"
        return None


def parse_name(text: str) -> tuple[str, tuple[str, ...], str | None]:
    """Reads `NAME`, `NAME:FORM` or `NAME:FORM@RUNTIME`.

    Args:
        text: str.

    Returns:
        (model, forms, runtime): str, tuple of str, str or None.

    Raises:
        DMFormerError: there is no such model, form or runtime.

    Example:

    >>> parse_name("dmformer_s:fused@openvino")
    ('dmformer_s', ('fused',), 'openvino')
    """
    rest, _, runtime = text.partition("@")
    model, *forms = rest.split(":")
    if runtime and runtime not in RUNTIMES:
        raise DMFormerError(
            f"There is no runtime {runtime!r}; choose one of {', '.join(RUNTIMES)}."
        )
    library, slash, _ = model.partition("/")
    is_peer = bool(slash) and library in PEERS
    if not is_peer:
        presets.read_preset(model)
    unknown = [form for form in forms if is_peer or form not in FORMS]
    if unknown:
        raise DMFormerError(
            f"{text!r} asks for the form {unknown[0]!r}; a DMFormer takes {', '.join(FORMS)}, "
            "and a model of another library has no form."
        )
    return model, tuple(forms), runtime or None


def contestants_of(
    names: Sequence[str], runtimes: Sequence[str], **settings: Any
) -> list[Contestant]:
    """Returns every sensible pair of a name and a runtime.

    Args:
        names: sequence of str, as `parse_name` takes them. A name with a runtime of its own
            stays on that.
        runtimes: sequence of keys of `RUNTIMES`.
        **settings: other attributes of `Contestant`.

    Returns:
        List of Contestant, without pairs that nobody can mean, such as timm's on TensorFlow.

    Raises:
        DMFormerError: as `parse_name`.

    Example:

    >>> names = ["dmformer_s", "timm/resnet50"]
    >>> [contestant.name for contestant in contestants_of(names, ["tensorflow", "torch"])]
    ['dmformer_s@tensorflow', 'dmformer_s@torch', 'timm/resnet50@torch']
    """
    contestants = []
    for name in names:
        model, forms, own = parse_name(name)
        for runtime in [own] if own else runtimes:
            contestant = Contestant(model, runtime, forms, **settings)
            if own or contestant.library in RUNTIMES[runtime].libraries:
                contestants.append(contestant)
    return list(dict.fromkeys(contestants))


def limits(dtype="float32", device="cpu"):
    """Returns the contestants that measure the arithmetic limit, of which the faster is it."""
    dtype = "float32" if dtype == "float32" else "bfloat16"
    runtimes = ["torch", "jax"] if device == "gpu" or dtype == "bfloat16" else ["numpy", "torch"]
    found = [Contestant(LIMIT, runtime, dtype=dtype, device=device) for runtime in runtimes]
    return [contestant for contestant in found if contestant.left_out() is None]
