"""Keras optimizers that train each group of weights in its own way."""

import contextlib
import dataclasses
import functools
import warnings
from typing import Any

import keras
from keras import ops

from dmformer_keras.checks import is_finite_number
from dmformer_keras.errors import DMFormerError, shown


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Weights that are trained alike.

    Args:
        depth: int, layers from the input, see `layer_depths`; None where they are not counted.
        weight_decay: bool, whether the optimizer's weight decay applies.
        learning_rate_factor: float, positive, multiplies the optimizer's learning rate, and with
            it the decay.
        weights: tuple of `keras.Variable`.
    """

    depth: int | None
    weight_decay: bool
    learning_rate_factor: float
    weights: tuple[keras.Variable, ...]


@functools.cache
def with_parameter_groups(optimizer_class: type[keras.optimizers.Optimizer]) -> type[Any]:
    """A Keras optimizer that trains each group of weights in its own way.

    Files of models that were compiled with it keep the groups. Keras finds the class by its name:
    of its own optimizers after `import dmformer_keras`; for another, call this before
    `keras.models.load_model`.

    Args:
        optimizer_class: subclass of `keras.optimizers.Optimizer`.

    Returns:
        A subclass of it, with the method `set_groups`, which takes what `parameter_groups`
        returns. Weights that are in no group are trained as Keras would.

    Raises:
        DMFormerError: it is no class of an optimizer, one that holds another optimizer, or one that
            decays weights by rules of its own, as Muon does.

    Example:

    >>> weights = [keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="bias")]
    >>> optimizer = with_parameter_groups(keras.optimizers.SGD)(0.1, weight_decay=0.5)
    >>> optimizer.set_groups([ParameterGroup(0, False, 0.5, (weights[1],))])
    >>> optimizer.apply([ops.zeros(1) + 2, ops.zeros(1) + 2], weights)
    >>> [round(float(weight[0]), 3) for weight in weights]  # 1 - 0.1 * (0.5 + 2), 1 - 0.05 * 2
    [0.75, 0.9]
    """
    _check_class(optimizer_class)
    common = keras.optimizers.Optimizer._apply_weight_decay
    if optimizer_class._apply_weight_decay is not common:
        raise DMFormerError(
            f"{optimizer_class.__name__} decays weights by rules of its own; use another "
            "optimizer, such as keras.optimizers.AdamW."
        )

    class Grouped(_GroupedUpdates, optimizer_class):
        pass

    Grouped.__name__ = Grouped.__qualname__ = f"Grouped{optimizer_class.__name__}"
    Grouped.__doc__ = f"`{optimizer_class.__name__}` with groups: see `with_parameter_groups`."
    return keras.saving.register_keras_serializable(package="dmformer_keras")(Grouped)


def _check_class(optimizer_class):
    is_optimizer = isinstance(optimizer_class, type) and issubclass(
        optimizer_class, keras.optimizers.Optimizer
    )
    if not is_optimizer:
        raise DMFormerError(
            "with_parameter_groups takes the class of an optimizer, like keras.optimizers.AdamW, "
            f"not {shown(optimizer_class)}."
        )
    # Keras has the second one since later than the lowest version that is supported.
    around = ("LossScaleOptimizer", "MultiOptimizer")
    around = [getattr(keras.optimizers, name) for name in around if hasattr(keras.optimizers, name)]
    if issubclass(optimizer_class, tuple(around)):
        raise DMFormerError(
            f"{optimizer_class.__name__} wraps another optimizer: wrap it around an optimizer "
            "with groups."
        )


class _GroupedUpdates:
    """What `with_parameter_groups` adds to an optimizer.

    `rules`, read from a file, are [path of a weight, learning rate factor, whether it decays].
    """

    def __init__(self, *args, rules=None, **kwargs):
        super().__init__(*args, **kwargs)
        # By path, for files; by variable, for updates.
        self._rules_by_path = rules or []
        self._rules = {}

    def set_groups(self, groups):
        """Sets how each weight is trained.

        Args:
            groups: list of ParameterGroup.

        Raises:
            DMFormerError: they are no groups, a weight is in two, or a factor is not positive.
        """
        rules, by_path = {}, []
        for group in groups:
            if not isinstance(group, ParameterGroup):
                raise DMFormerError(
                    f"set_groups takes what parameter_groups returns, not a list of {shown(group)}."
                )
            factor, decays = group.learning_rate_factor, bool(group.weight_decay)
            if not is_finite_number(factor) or factor <= 0:
                raise DMFormerError(f"learning_rate_factor must be positive, not {shown(factor)}.")
            for weight in group.weights:
                key = self._var_key(weight)
                if key in rules:
                    raise DMFormerError(
                        f"The weight {weight.path!r} is in two groups; leave it in one."
                    )
                rules[key] = (float(factor), decays)
                by_path.append([weight.path, float(factor), decays])
        self._rules, self._rules_by_path = rules, by_path

    def build(self, variables):
        if not self.built and self._rules_by_path:
            if not self._rules:
                self._find_weights(variables)
            if variables and not any(self._var_key(weight) in self._rules for weight in variables):
                raise DMFormerError(
                    "The optimizer's groups are of other weights than the model's; call "
                    "set_groups(parameter_groups(model)) with the model that it trains."
                )
        super().build(variables)

    def _find_weights(self, variables):
        """Finds the weights that a file's rules are of."""
        rules = {}  # several weights may have one path: in their order
        for path, *rule in self._rules_by_path:
            rules.setdefault(path, []).append(tuple(rule))
        without = []
        for weight in variables:
            if rules.get(weight.path):
                self._rules[self._var_key(weight)] = rules[weight.path].pop(0)
            else:
                without.append(weight.path)
        if without:
            warnings.warn(
                f"The file has no group for {len(without)} weights, {without[0]!r} first: they are "
                "trained as Keras would. Were they frozen? Call set_groups to settle it.",
                stacklevel=2,
            )

    def update_step(self, gradient, variable, learning_rate):
        factor, decays = self._rule(variable)
        learning_rate = learning_rate * factor
        if self.weight_decay and decays:
            decay = ops.cast(self.weight_decay * learning_rate, variable.dtype)
            self.assign_sub(variable, variable * decay)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "rules": self._rules_by_path}

    def _rule(self, variable):
        rule = self._rules.get(self._var_key(variable))
        return (1.0, self._use_weight_decay(variable)) if rule is None else rule

    def _apply_weight_decay(self, variables):
        """Nothing: Keras decays all weights at one learning rate before the update."""


def _register_all():
    """Makes Keras know the classes, for files that were compiled with one."""
    classes = [one for one in vars(keras.optimizers).values() if isinstance(one, type)]
    for optimizer_class in classes:
        with contextlib.suppress(DMFormerError):
            with_parameter_groups(optimizer_class)


_register_all()
