"""Prepares a model for export: its exported form and its description."""

import dataclasses

import keras
import numpy as np

from dmformer_keras.backbone import MINIMUM_SIZE, DMFormerBackbone
from dmformer_keras.checks import check_bool, is_positive_int
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export.quiet import LOG
from dmformer_keras.export.rebuilding import rebuilt
from dmformer_keras.fusing import FusedModel, output_activation
from dmformer_keras.fusing import fuse as fuse_model
from dmformer_keras.inference.model_outputs import THRESHOLDS, class_names_of, is_binary
from dmformer_keras.system.files import stored_bytes
from dmformer_keras.task_model import TaskModel

# By the rank of the output.
_TASKS = {2: "classify", 4: "segment"}
_SIXTEEN_BITS = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model ready to be converted.

    Args:
        model: `keras.Model` in float32, channels_last, fused if that was asked for.
        reference: `keras.Model`, the same as it was given, but in float32, channels_last.
        shape: (height, width, channels), ints; None for a side that may be any.
        description: dict of JSON values, what another program must know of the file.
    """

    model: keras.Model
    reference: keras.Model
    shape: tuple
    description: dict

    @property
    def bytes(self):
        """About how many bytes the weights take in a file of float32."""
        return stored_bytes(self.model.weights)


def prepare(model, input_shape, fuse, resizable=False):
    """Returns a model, which is not changed, in the form that is exported."""
    check_bool("fuse", fuse)
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise DMFormerError(
            f"model must be a functional keras.Model, not a {type(model).__name__}; wrap it in "
            "keras.Model(inputs, outputs)."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.inputs[0].shape) != 4:
        raise DMFormerError(
            f"An export takes a model with one image input and one output, and {model.name!r} "
            f"has {len(model.inputs)} and {len(model.outputs)}; wrap it in "
            "keras.Model(inputs, outputs)."
        )
    output_shape = tuple(model.outputs[0].shape)
    if len(output_shape) not in _TASKS:
        raise DMFormerError(
            f"{model.name!r} gives outputs of shape {output_shape}, where (batch, classes) or a "
            "map was expected; wrap it in keras.Model(inputs, outputs) with such outputs."
        )
    task = model.task if isinstance(model, FusedModel) else type(model).__name__
    source = _float32_channels_last(model)
    shape = _image_shape(source, input_shape, resizable)
    exported = source
    if fuse and not isinstance(source, FusedModel):
        LOG.info("Folding every BatchNorm into its neighbors")
        exported = fuse_model(source)
    description = _description(source, task, shape)
    if not description["class_names"] and description["task"] != "features":
        LOG.warning(
            "The model has no class names, and the file will say numbers: build it with "
            "class_names=[...], or set model.class_names before."
        )
    return Prepared(exported, source, shape, description)


def _description(model, task, shape):
    """The description of input and output for programs that use the file."""
    is_features = task.endswith("Backbone")
    takes_pixels = _takes_pixels(model)
    colors = getattr(model, "class_colors", None)
    names = getattr(model, "class_names", None)
    output = {"activation": "linear" if is_features else output_activation(model)}
    if is_binary(model) and output["activation"] in THRESHOLDS:
        # An output above it is the second class.
        output["threshold"] = THRESHOLDS[output["activation"]]
        names = names and class_names_of(model)
    return {
        "format": 1,
        "name": model.name,
        "made_from": task,
        "task": "features" if is_features else _TASKS[len(model.outputs[0].shape)],
        "input": {
            "shape": list(shape),
            "layout": "height, width, channels",
            "color_order": {1: "grey", 3: "RGB", 4: "RGBA"}.get(shape[2], "the model's own"),
            # The values to feed: (pixel - mean) / std, of pixels in 0..255.
            "mean": 0.0 if takes_pixels else 127.5,
            "std": 1.0 if takes_pixels else 127.5,
        },
        "output": output,
        "class_names": names,
        "class_colors": colors and [[int(part) for part in color] for color in colors],
    }


def _takes_pixels(model):
    """Tells whether a model takes pixels as they are, as all do but ours without rescaling."""
    layers = list(model._flatten_layers())
    ours = [layer for layer in layers if isinstance(layer, DMFormerBackbone)]
    if ours:
        return all(backbone.get_config()["include_rescaling"] for backbone in ours)
    return not isinstance(model, FusedModel) or any(
        isinstance(layer, keras.layers.Rescaling) for layer in layers
    )


def _image_shape(model, input_shape, resizable):
    own = tuple(model.inputs[0].shape[1:])
    shape = own if input_shape is None else input_shape
    shape = tuple(shape) if isinstance(shape, (list, tuple)) else (shape,)
    open_sides = resizable and len(shape) == 3 and shape[:2] == (None, None)
    if resizable and not open_sides:
        raise DMFormerError(
            f"resizable=True is for a model of any size, and this one takes images of shape {own}; "
            "build it with input_shape=(None, None, channels), and give no other input_shape here."
        )
    known = shape[2:] if open_sides else shape
    if len(shape) != 3 or not all(is_positive_int(size) for size in known):
        raise DMFormerError(
            f"The model takes images of shape {own}; pass input_shape with a fixed height, "
            "width and number of channels, such as (224, 224, 3)."
        )
    if any(size not in (None, given) for size, given in zip(own, shape, strict=True)):
        raise DMFormerError(
            f"input_shape {shape} does not fit the model, which takes images of shape {own}; "
            "build the model with input_shape (None, None, channels) to export another size."
        )
    if not open_sides and min(shape[:2]) < MINIMUM_SIZE:
        raise DMFormerError(
            f"input_shape {shape} has a side under {MINIMUM_SIZE} pixels, the least that a "
            "DMFormer takes; give a larger one."
        )
    return tuple(None if size is None else int(size) for size in shape)


def _float32_channels_last(model):
    """Returns the model, or a copy in float32 and channels_last, which runtimes compute in."""
    layers = list(model._flatten_layers())
    copy = model
    if any(getattr(layer, "data_format", None) == "channels_first" for layer in layers):
        copy = _channels_last(model)
    if any(layer.compute_dtype in _SIXTEEN_BITS for layer in layers):
        copy = _float32(copy)
    if copy is not model:
        copy.set_weights([np.asarray(weight, "float32") for weight in model.get_weights()])
    return copy


def _channels_last(model):
    if isinstance(model, TaskModel) and isinstance(model.backbone, DMFormerBackbone):
        backbone = _channels_last(model.backbone)
        return type(model).from_config({**model.get_config(), "backbone": backbone})
    if not isinstance(model, DMFormerBackbone):
        raise DMFormerError(
            f"{model.name!r} takes images with the channels first, which an exported file does "
            "not; build it again on a channels_last backbone with the same weights and export that."
        )
    config = {**model.get_config(), "data_format": "channels_last"}
    # KerasHub's name, and this package's.
    key = "image_shape" if "image_shape" in config else "input_shape"
    if model.data_format == "channels_first" and config[key] is not None:
        channels, *sides = config[key]
        config[key] = (*sides, channels)
    return type(model).from_config(config)


def _float32(model):
    """Returns a model of the same architecture, every layer in float32."""
    policy = keras.config.dtype_policy()
    # Some layers of the libraries' task models use the global policy.
    keras.config.set_dtype_policy("float32")
    try:
        return rebuilt(model, _in_float32)
    except (TypeError, ValueError, KeyError) as error:
        raise DMFormerError(
            f"{model.name!r} computes in 16 bits, which an exported file does not, and cannot be "
            f"built again in float32 ({shortened(error)}); build it so with the same weights and "
            "export that."
        ) from error
    finally:
        keras.config.set_dtype_policy(policy)


def _in_float32(part):
    """Returns a part of a model's configuration with its dtype policy replaced."""
    return {**part, "dtype": "float32"} if part.get("dtype") is not None else part
