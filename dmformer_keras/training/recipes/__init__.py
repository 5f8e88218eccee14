"""Recipes by name, each a module whose `RECIPE` is the data and whose docstring says the rest."""

import importlib
import pkgutil
from typing import Any

from dmformer_keras.errors import DMFormerError


def names() -> list[str]:
    """Returns the names of all recipes.

    Returns:
        list of str.

    Example:

    >>> "imagenet" in names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str, kind: type) -> Any:
    """Returns a recipe of a kind.

    Args:
        name: str.
        kind: type, Recipe or SegmentationRecipe.

    Returns:
        An instance of `kind`.

    Raises:
        DMFormerError: there is none of that name and kind.
    """
    recipes = {module: importlib.import_module(f"{__name__}.{module}").RECIPE for module in names()}
    fitting = [module for module, recipe in recipes.items() if isinstance(recipe, kind)]
    if name in recipes and name not in fitting:
        raise DMFormerError(
            f"The recipe {name!r} is a {type(recipes[name]).__name__}, for another --task; choose "
            f"one of {', '.join(fitting)}."
        )
    if name not in fitting:
        raise DMFormerError(
            f"There is no recipe {name!r} for a {kind.__name__}; choose one of "
            f"{', '.join(fitting)}."
        )
    return recipes[name]
