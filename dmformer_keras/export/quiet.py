"""The messages of an export, and silence for those of its C++ libraries."""

import contextlib
import logging
import os
import sys

# One line per step, for a program to show; silent unless it does.
LOG = logging.getLogger("dmformer_keras.export")


@contextlib.contextmanager
def quiet_stderr():
    """Keeps the C++ log of TensorFlow and LiteRT out of the terminal; exceptions come through."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
