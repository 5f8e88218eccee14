"""The start of Keras and its backend, quietly, with a clear word where it is missing."""

import contextlib
import importlib.util
import logging
import os
import sys

from dmformer_keras.errors import DMFormerError

_PACKAGES = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


def start():
    """Imports Keras and wakes its devices.

    Raises:
        DMFormerError: the backend that is set is not installed, or is none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _silenced_stderr():
            import keras

            keras.ops.convert_to_numpy(keras.ops.zeros(()))
        # Its advice on retracing is for those who write their own loops.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise DMFormerError(_missing(error.name)) from error
    except ValueError as error:
        if "backend" not in str(error).lower():
            raise
        raise DMFormerError(
            f"KERAS_BACKEND={os.environ.get('KERAS_BACKEND')!r} is no backend of Keras that "
            "DMFormer runs on; set it to tensorflow, jax or torch."
        ) from error


def _missing(name):
    installed = [other for other in _PACKAGES if importlib.util.find_spec(other)]
    other = f"set KERAS_BACKEND={installed[0]}" if installed else "set KERAS_BACKEND=jax or torch"
    package = '"dmformer-keras[tensorflow]"' if name == "tensorflow" else name
    return (
        f"Keras's backend {name!r} is not installed; run `pip install {package}`, or {other}"
        f"{', which is installed' if installed else ' after installing that'}."
    )


@contextlib.contextmanager
def _silenced_stderr():
    """Drops what is written to the file descriptor of stderr, exceptions not."""
    # TensorFlow 2.21 logs through a library that TF_CPP_MIN_LOG_LEVEL does not reach yet
    # while it is imported.
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
