"""Conversions under the backend that they need, whatever this process's own is.

A module that converts has a function `convert(model, path, arrays, **options)`, which runs
under one backend: here, if this process has it, and in a process of its own otherwise.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import dmformer_keras  # noqa: F401  registers the classes that a saved model holds
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.export.quiet import LOG

_PACKAGES = {"tensorflow": "TensorFlow", "torch": "PyTorch"}
# The process prints this before the message of a DMFormerError.
_STATED = "dmformer-error: "


def convert_under(backend, module, model, path, options, arrays=None):
    """Calls a module's `convert` under a backend."""
    if importlib.util.find_spec(backend) is None:
        raise DMFormerError(
            f"This conversion needs {_PACKAGES[backend]}, which is not installed: pip install "
            f"{backend}."
        )
    LOG.info("Converting%s", "" if keras.config.backend() == backend else f" under {backend}")
    arrays = {name: array for name, array in (arrays or {}).items() if array is not None}
    if keras.config.backend() == backend:
        importlib.import_module(module).convert(model, path, arrays, **options)
        return
    with tempfile.TemporaryDirectory() as folder:
        model_path, arrays_path = Path(folder) / "model.keras", Path(folder) / "arrays.npz"
        model.save(model_path)
        np.savez(arrays_path, **arrays)
        request = {
            "module": module,
            "model": str(model_path),
            "path": str(path),
            "options": options,
            "arrays": str(arrays_path),
            "libraries": _libraries_of(model),
        }
        # On the CPU, so that this process keeps its GPU memory.
        environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"}
        finished = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(request),
            env=environment,
            capture_output=True,
            text=True,
        )
    if finished.returncode != 0:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        stated = [line for line in lines if line.startswith(_STATED)]
        if stated:
            raise DMFormerError(stated[-1].removeprefix(_STATED))
        raise DMFormerError(
            f"The {_PACKAGES[backend]} process could not convert {model.name!r} "
            f"({lines[-1][:300]}); export a model with layers of your own, which it does not know, "
            f"under KERAS_BACKEND={backend}."
        )


def _libraries_of(model):
    """Returns the packages whose layers a model holds, to be imported before it is loaded."""
    names = {type(layer).__module__.split(".")[0] for layer in model._flatten_layers()}
    return sorted(names & {"keras_cv", "keras_hub"})


def main():
    """Converts what the JSON object on the standard input names."""
    request = json.load(sys.stdin)
    for library in request["libraries"]:
        importlib.import_module(library)
    try:
        model = keras.saving.load_model(request["model"], compile=False)
        with np.load(request["arrays"]) as arrays:
            module = importlib.import_module(request["module"])
            module.convert(model, request["path"], dict(arrays), **request["options"])
    except (DMFormerError, OSError) as error:
        print(f"{_STATED}{shortened(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
