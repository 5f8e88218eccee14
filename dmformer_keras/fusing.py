"""The exact inference form of a model: every BatchNormalization folded away.

Three steps: the model, with the models inside it, becomes a flat list of calls; every
BatchNorm in the list is folded into a linear neighbor; the list is called again with
copies of the layers, which hold the new weights.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Self

import keras
import numpy as np
from keras import ops, tree
from keras.src.models.functional import Functional

from dmformer_keras import fused_weights
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.layers.attention import DynamicMultilevelAttention
from dmformer_keras.layers.block import DMFormerBlock
from dmformer_keras.task_model import TaskModel
from dmformer_keras.task_table import task_of_class

# What leaves a BatchNorm's factor and offset of each channel as they are.
_IDENTITIES = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.Identity,
)
_AVERAGES = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling3D)
# What a fused model is told of its original.
_KEPT = ("class_names", "class_colors", "task", "activation")
_DMFORMER_LAYERS = (DMFormerBlock, DynamicMultilevelAttention)


@keras.saving.register_keras_serializable(package="dmformer_keras")
class FusedModel(keras.Model):
    """What `fuse` returns: a functional model that keeps the class names of its original.

    Attributes:
        class_names: list of str, or `None` where the original model has none.
        class_colors: list of (r, g, b), likewise.
        task: str, the class of the original, such as "SemanticFPN".
        activation: str, of the outputs: "linear" for logits.

    Example:

    >>> from dmformer_keras import DMFormerN
    >>> model = DMFormerN(input_shape=(64, 64, 3), num_classes=2, class_names=["cat", "dog"])
    >>> fuse(model).class_names
    ['cat', 'dog']
    """

    class_names: list[str] | None = None
    class_colors: list[list[int]] | None = None
    task: str | None = None
    activation: str = "linear"

    @property
    def num_classes(self) -> int:
        """Int: how many values the model gives for an image, or for each of its pixels."""
        return self.output.shape[-1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in _KEPT}}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        config = dict(config)
        kept = {name: config.pop(name, None) for name in _KEPT}
        model = super().from_config(config, custom_objects=custom_objects)
        for name, value in kept.items():
            setattr(model, name, value)
        model.activation = kept["activation"] or output_activation(model)
        return model


def fuse(model: keras.Model) -> FusedModel:
    """Returns the exact inference form of a model: the same outputs, no BatchNorm, faster.

    Every BatchNormalization, at inference a factor and an offset for each channel, is
    folded into the convolution or dense layer before or after it. In a `DMFormerBlock`,
    LayerScale and the linear chain at the end of the attention are merged as well, and
    the rest is computed in the form that is fast on the backend. A BatchNorm without a
    linear neighbor (before a zero-padded convolution, say, which an offset cannot pass)
    becomes a `ScaleAndOffset`. Outputs equal the original's within float32 rounding.

    The result behaves the same whether called with `training=True` or not, except for
    dropout layers. Layers of models inside the model, a backbone's for instance, become
    layers of the result under their own names, so `fused.get_layer("stage4_block3")`
    finds a feature map.

    Args:
        model: functional or built sequential `keras.Model`: `DMFormerClassifier`,
            `SemanticFPN`, `UPerNet`, `DMFormerBackbone`, a model of several outputs such as
            `keras.Model(backbone.input, backbone.pyramid_outputs)`, or any that these
            are part of, such as the tasks of KerasCV and KerasHub. It is not changed.

    Returns:
        A functional `keras.Model` of the same inputs and outputs, with weights of its
        own. Its `class_names` and `class_colors` are the original's. A `.keras` file of it
        loads once `dmformer_keras` is imported.

    Raises:
        DMFormerError: if the model is not functional, or holds a BatchNorm in a layer
            that cannot be taken apart, or one that was called with `training=True`.

    Example:

    >>> import dmformer_keras
    >>> model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=3)
    >>> fused = fuse(model)
    >>> fused.output.shape
    (None, 3)
    >>> fused.get_layer("stage4_block2").output.shape
    (None, 2, 2, 192)
    """
    function = _function_of(model)
    if function is None:
        raise DMFormerError(
            f"{getattr(model, 'name', model)!r} is a {type(model).__name__}, where a functional "
            "or built sequential keras.Model was expected; wrap it in keras.Model(inputs, outputs)."
        )
    graph = _Graph(function)
    graph.fold_norms()
    inputs, outputs = graph.rebuild(function)
    fused = FusedModel(inputs, outputs, name=model.name)
    for name in ("class_names", "class_colors"):
        setattr(fused, name, getattr(model, name, None))
    fused.task = _task_name(type(model))
    fused.activation = output_activation(model)
    return fused


def _task_name(cls):
    """The name of the task that a class is or derives from; else the class's own."""
    known = (parent.__name__ for parent in cls.__mro__ if task_of_class(parent) is not None)
    return next(known, cls.__name__)


def output_activation(model):
    """Returns the name of the activation that a model's output has: a str, "linear" for logits and
    features.

    Example:

    >>> from dmformer_keras import DMFormerN
    >>> output_activation(DMFormerN(input_shape=(64, 64, 3), activation="softmax"))
    'softmax'
    """
    # A backbone has an attribute of this name, too: that of its blocks.
    own = model.activation if isinstance(model, (TaskModel, FusedModel)) else None
    if isinstance(own, str):
        return own
    if len(model.outputs) != 1:
        return "linear"
    last = model.outputs[0]._keras_history.operation
    inner = _function_of(last)
    if inner is not None:
        return output_activation(inner)
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    activation = own if own is not None else getattr(last, "activation", None)
    if activation is None or isinstance(activation, str):
        return activation or "linear"
    return getattr(activation, "__name__", "linear")


@dataclasses.dataclass(eq=False)
class _Value:
    """A tensor of the list of calls."""

    spec: keras.KerasTensor


@dataclasses.dataclass(eq=False)
class _Call:
    """One call of an operation, with `_Value`s in its arguments where tensors were."""

    operation: Any
    args: tuple
    kwargs: dict
    outputs: list
    scope: str
    # Of a linear layer whose weights have been changed: they, in float64.
    weights: Any = None

    @property
    def inputs(self):
        return [x for x in tree.flatten((self.args, self.kwargs)) if isinstance(x, _Value)]

    def linear_weights(self):
        """The weights of a linear layer, as folded so far."""
        return self.weights or fused_weights.LinearWeights.of(self.operation)

    @property
    def single_input(self):
        """The one tensor that the operation takes, or `None` if it takes more."""
        inputs = self.inputs
        return inputs[0] if len(inputs) == 1 and self.args[:1] == (inputs[0],) else None


class _Graph:
    """The calls of a model and of all models inside it, in order."""

    def __init__(self, function):
        self.calls = []
        self.inputs = [_Value(tensor) for tensor in function.inputs]
        self.outputs = self._inline(function, self.inputs, "")

    def _inline(self, function, values, scope):
        """Appends the calls of a functional model applied to `values`; returns its outputs."""
        known = dict(zip(map(id, function.inputs), values, strict=True))
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args, kwargs = node.arguments.fill_in(known)
                outputs = [_Value(tensor) for tensor in node.outputs]
                call = _Call(node.operation, tuple(args), kwargs, outputs, scope)
                known.update(zip(map(id, node.outputs), self._append(call), strict=True))
        return [known[id(tensor)] for tensor in function.outputs]

    def _append(self, call):
        """Appends a call, or the calls that it is made of; returns its outputs."""
        operation = call.operation
        has_norm = _has_norm(operation)
        if has_norm and call.kwargs.get("training"):
            raise DMFormerError(
                f"The layer {operation.name!r} is called with training=True: its BatchNorm "
                "normalizes with each batch's statistics, which cannot be folded; build the "
                "model without that argument."
            )
        inner = _function_of(operation)
        if inner is not None and not call.kwargs.get("training"):
            values = [x for x in tree.flatten(call.args) if isinstance(x, _Value)]
            return self._inline(inner, values, _inner_scope(call))
        if has_norm and not isinstance(operation, keras.layers.BatchNormalization):
            if type(operation) not in _DMFORMER_LAYERS:
                return self._inline(_traced(call), call.inputs, _inner_scope(call))
        elif has_norm and type(operation) not in fused_weights.NORMS:
            raise DMFormerError(
                f"The layer {operation.name!r} is a {type(operation).__name__}, a kind of "
                "BatchNormalization that is not known here; use keras.layers.BatchNormalization."
            )
        if has_norm:  # what takes its place takes no `training` or `mask`
            call.args, call.kwargs = (call.inputs[0],), {}
        self.calls.append(call)
        return call.outputs

    def fold_norms(self):
        """Takes every BatchNormalization out of the list, or makes it a `ScaleAndOffset`."""
        for call in list(self.calls):
            if type(call.operation) in fused_weights.NORMS:
                norm = _Norm(call)
                folded = self._fold_backward(norm) or self._fold_forward(norm)
                if folded:
                    self._remove(call)

    def _fold_backward(self, norm):
        """Folds a norm into the linear layer before it; tells whether it could."""
        before = next((call for call in self.calls if norm.value in call.outputs), None)
        if before is None or not self._is_foldable(before) or not self._is_only_use(norm):
            return False
        layer = before.operation
        is_linear = layer.activation is keras.activations.linear
        if not is_linear or norm.axis != fused_weights.layer_channel_axis(layer, norm.rank):
            return False
        before.weights = before.linear_weights().then(norm.scale, norm.offset)
        return True

    def _fold_forward(self, norm):
        """Folds a norm into the linear layers after it; tells whether it could."""
        targets = self._linear_consumers(norm.call.outputs[0], norm.axis)
        if targets is None:
            return False
        for call in targets:
            call.weights = call.linear_weights().after(norm.scale, norm.offset)
        return True

    def _linear_consumers(self, value, axis):
        """Returns the linear layers that take `value`, or `None` if anything else does."""
        if value in self.outputs:
            return None
        found = []
        for call in self._consumers(value):
            more = self._linear_layers_behind(call, value, axis)
            if more is None:
                return None
            found += more
        return found

    def _linear_layers_behind(self, call, value, axis):
        layer = call.operation
        if type(layer) in _IDENTITIES:
            return self._linear_consumers(call.outputs[0], axis)
        if type(layer) in _AVERAGES:
            rank = len(value.spec.shape)
            if axis != fused_weights.layer_channel_axis(layer, rank):
                return None
            rank = len(call.outputs[0].spec.shape)
            axis = fused_weights.layer_channel_axis(layer, rank)
            return self._linear_consumers(call.outputs[0], axis)
        if not self._is_foldable(call) or not fused_weights.takes_offset(layer):
            return None
        rank = len(value.spec.shape)
        return [call] if axis == fused_weights.layer_channel_axis(layer, rank) else None

    def _consumers(self, value):
        return [call for call in self.calls if value in call.inputs]

    def _is_only_use(self, norm):
        return norm.value not in self.outputs and self._consumers(norm.value) == [norm.call]

    def _is_foldable(self, call):
        """Tells whether a call is the only one of a linear layer whose weights may change."""
        layer = call.operation
        return (
            fused_weights.is_changeable(layer)
            and call.single_input is not None
            and sum(other.operation is layer for other in self.calls) == 1
        )

    def _remove(self, call):
        """Takes a call out of the list; who took its output takes its input."""
        before, after = call.single_input, call.outputs[0]
        self.calls.remove(call)

        def replaced(x):
            return before if x is after else x

        for other in self.calls:
            if after in other.inputs:
                other.args = tree.map_structure(replaced, other.args)
                other.kwargs = tree.map_structure(replaced, other.kwargs)
        self.outputs = [replaced(value) for value in self.outputs]

    def rebuild(self, function):
        """Calls copies of everything on new inputs; returns the inputs and the outputs, in the
        structures of those of `function`.
        """
        new_inputs = [
            keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
            for tensor in function.inputs
        ]
        tensors = dict(zip(self.inputs, new_inputs, strict=True))
        copies = _Copies({tensor.name for tensor in new_inputs})

        def new(x):
            return tensors[x] if isinstance(x, _Value) else x

        for call in self.calls:
            args, kwargs = tree.map_structure(new, (call.args, call.kwargs))
            outputs = tree.flatten(copies.of(call)(*args, **kwargs))
            tensors.update(zip(call.outputs, outputs, strict=True))
        outputs = [tensors[value] for value in self.outputs]
        return (
            tree.pack_sequence_as(function._inputs_struct, new_inputs),
            tree.pack_sequence_as(function._outputs_struct, outputs),
        )


def _function_of(operation):
    """Returns the graph that an operation stands for, or `None` if it is no such model."""
    if isinstance(operation, keras.Sequential) and type(operation).call is keras.Sequential.call:
        return operation._functional
    is_functional = isinstance(operation, Functional) and type(operation).call is Functional.call
    return operation if is_functional else None


def _has_norm(operation):
    return isinstance(operation, keras.layers.Layer) and any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in operation._flatten_layers()
    )


def _inner_scope(call):
    return f"{call.scope}{call.operation.name}_"


def _traced(call):
    """Returns the graph of what happens inside of a layer, traced on a copy of it."""
    layer = call.operation
    if any(None in value.spec.shape[1:] for value in call.inputs):
        raise _refusal(layer, "the size of its input is not known")
    try:
        copy = _copy_of_layer(layer, layer.name)
        specs = {value: _spec_inside(layer, value) for value in call.inputs}
        function = keras.Function(list(specs.values()), tree.flatten(_inside(copy, call, specs)))
        random = np.random.default_rng(0)
        sample = {
            value: ops.convert_to_tensor(random.normal(size=(2, *spec.shape[1:])), spec.dtype)
            for value, spec in specs.items()
        }
        expected = tree.flatten(_inside(copy, call, sample))
        found = function(list(sample.values()))
        is_same = all(map(_is_close, expected, found))
    except Exception as error:
        raise _refusal(layer, shortened(error)) from error
    if not is_same:
        raise _refusal(layer, "it does not do the same for every batch")
    for node in itertools.chain(*function._nodes_by_depth.values()):
        arguments = tree.flatten((node.arguments.args, node.arguments.kwargs))
        if any(isinstance(x, keras.Variable) for x in arguments):
            raise _refusal(layer, "it uses weights of its own")
    return function


def _spec_inside(layer, value):
    """Returns a symbolic tensor as it comes out of the cast in `Layer.__call__`."""
    is_float = keras.backend.is_float_dtype(value.spec.dtype)
    return keras.KerasTensor(
        value.spec.shape, layer.compute_dtype if is_float else value.spec.dtype
    )


def _inside(layer, call, tensors):
    """Applies a layer's own `call` with tensors in the places of the values of `call`."""

    def known(x):
        return tensors[x] if isinstance(x, _Value) else x

    args, kwargs = tree.map_structure(known, (call.args, call.kwargs))
    return layer.call(*args, **kwargs)


def _is_close(expected, found):
    expected, found = (
        ops.convert_to_numpy(ops.cast(tensor, "float32")) for tensor in (expected, found)
    )
    return expected.shape == found.shape and np.allclose(
        expected, found, atol=1e-3 * np.abs(expected).max()
    )


def _refusal(layer, reason):
    return DMFormerError(
        f"The layer {layer.name!r}, a {type(layer).__name__}, holds a BatchNormalization and "
        f"cannot be taken apart to fold it ({reason}); give the model a fixed input size, or "
        "build it without this layer."
    )


def _copy_of_layer(layer, name, **changes):
    """Returns a built copy of a layer, with other arguments where given, without its weights."""
    cls = fused_weights.own_class(layer) if changes else type(layer)
    copy = cls.from_config({**layer.get_config(), "name": name, **changes})
    build_config = layer.get_build_config() if layer.built else None
    if build_config and not copy.built:
        copy.build_from_config(build_config)
    if not changes:
        copy.set_weights(layer.get_weights())
        if hasattr(copy, "finalize_state"):  # Normalization computes with what it derives
            copy.finalize_state()
    return copy


class _Copies:
    """One copy of each operation of the list, with its new weights and a unique name."""

    def __init__(self, used_names):
        self.used_names = used_names
        self.copies = {}

    def of(self, call):
        operation = call.operation
        if id(operation) not in self.copies:
            try:
                self.copies[id(operation)] = self._copy(call)
            except NotImplementedError as error:
                raise DMFormerError(
                    f"The operation {operation.name!r}, a {type(operation).__name__}, cannot be "
                    "copied, for it has no get_config; give it one."
                ) from error
        return self.copies[id(operation)]

    def _copy(self, call):
        operation = call.operation
        name = self._unique_name(call)
        if not isinstance(operation, keras.layers.Layer):
            copy = type(operation).from_config(operation.get_config())
            copy.name = name
            return copy
        if type(operation) in fused_weights.NORMS:
            return fused_weights.scale_and_offset_layer(operation, name)
        if type(operation) is DMFormerBlock:
            return fused_weights.fused_block(operation, name)
        if type(operation) is DynamicMultilevelAttention:
            return fused_weights.fused_attention(operation, name)
        if call.weights is None:
            return _copy_of_layer(operation, name)
        copy = _copy_of_layer(operation, name, use_bias=True)
        fused_weights.assign_weights(copy, call.weights)
        return copy

    def _unique_name(self, call):
        """Returns the operation's name, behind those of the models around it if it is taken."""
        names = [call.operation.name, f"{call.scope}{call.operation.name}"]
        names += [f"{names[1]}_{number}" for number in range(1, len(self.used_names) + 1)]
        name = next(name for name in names if name not in self.used_names)
        self.used_names.add(name)
        return name


class _Norm:
    """A call of a BatchNormalization: its factor and offset of each channel, in float64."""

    def __init__(self, call):
        self.call = call
        self.value = call.single_input
        self.rank = len(self.value.spec.shape)
        self.axis = call.operation.axis % self.rank
        self.scale, self.offset = fused_weights.norm_scale_and_offset(call.operation)
