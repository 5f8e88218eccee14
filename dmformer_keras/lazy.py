"""Packages whose parts are imported when they are first used (PEP 562)."""

import importlib
import sys


def imported_when_used(package, homes):
    """Makes a package's `__getattr__`: it imports what is asked for, a function or a module;
    returns a function of a name.

    No name of `homes` may be that of a module of the package, which would hide it.

    Example:

    >>> find = imported_when_used("dmformer_keras", {"dmformer_keras.loading": ("load",)})
    >>> find("load").__name__, find("errors").__name__
    ('load', 'dmformer_keras.errors')
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def find(name):
        if name in home_of:
            value = getattr(importlib.import_module(home_of[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        if not name.startswith("_"):
            module = f"{package}.{name}"
            try:
                return importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
