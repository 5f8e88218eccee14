"""The way in of the `dmformer` command: reads the request, starts Keras quietly, does the work.

Outside of the package, because importing the package imports Keras and with it the
backend, which takes seconds: only here can help and wrong requests be answered before,
a missing backend be stated in a sentence, and the start-up log of TensorFlow's C++
libraries be kept out of the terminal.
"""

import contextlib
import importlib.util
import logging
import os
import sys

BACKENDS = ("tensorflow", "jax", "torch")


def main():
    """Runs the command line of this process.

    Returns:
        int, the exit code: see `dmformer_keras.cli.main`; 1 if Keras's backend is missing.
    """
    finish_package = _package_without_keras()
    from dmformer_keras.cli import main as run

    def start():
        problem = start_keras()
        if problem is None:
            finish_package()
        return problem

    return run(start=start)


def _package_without_keras():
    """Puts the package in its place without what its `__init__.py` imports, the models.

    Returns:
        Function that runs the `__init__.py`.
    """
    if "dmformer_keras" in sys.modules:
        return lambda: None
    spec = importlib.util.find_spec("dmformer_keras")
    package = importlib.util.module_from_spec(spec)
    sys.modules["dmformer_keras"] = package
    return lambda: spec.loader.exec_module(package)


def start_keras():
    """Imports Keras and wakes its devices.

    Returns:
        str, a sentence on what is wrong with the backend that is set, or None.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _silenced_stderr():
            import keras

            keras.ops.convert_to_numpy(keras.ops.zeros(()))
        # Its advice on retracing is for those who write their own loops.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    except ModuleNotFoundError as error:
        if error.name not in BACKENDS:
            raise
        return _missing(error.name)
    except ValueError as error:
        if "backend" not in str(error).lower():
            raise
        return (
            f"KERAS_BACKEND={os.environ.get('KERAS_BACKEND')!r} is no backend of Keras that "
            "DMFormer runs on; set it to tensorflow, jax or torch."
        )
    return None


def _missing(name):
    installed = [other for other in BACKENDS if importlib.util.find_spec(other)]
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
