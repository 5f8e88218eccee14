"""The way in of the `dmformer` command.

Outside of the package, because importing the package imports Keras and with it
TensorFlow, which reads how much it may log before any line of the command has run.
"""

import os


def main():
    """Runs the command line; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from dmformer_keras.cli import main as run

    return run()
