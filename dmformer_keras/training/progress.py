"""What a training says within an epoch: a bar on a terminal, elsewhere a line each half minute."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

import keras

from dmformer_keras.system.bars import LINE_SECONDS

# How long the first batch takes for compiling, of whom compiles.
_COMPILES = {
    "tensorflow": "about a minute, several on a busy machine",
    "jax": "a minute on a GPU, several on a CPU",
}


def compiling_text(backend: str, epoch: int) -> str:
    """What to say before an epoch that compiles; "" of a backend that compiles nothing.

    Example:

    >>> compiling_text("torch", 1), compiling_text("jax", 2)[-21:]
    ('', '; then epoch 2 begins')
    """
    if backend not in _COMPILES:
        return ""
    return f"Compiling the model for {backend}, {_COMPILES[backend]}; then epoch {epoch} begins"


class Bar(keras.callbacks.ProgbarLogger):
    """Keras's bar, but for the first batch of an epoch: it may hold the compilation.

    What the bar would say of the time that is left, it would count from that batch. The metrics
    `hidden` are not shown at the end of an epoch.
    """

    def __init__(self, hidden=()):
        super().__init__()
        self.hidden = hidden

    def on_epoch_end(self, epoch, logs=None):
        shown = {name: value for name, value in (logs or {}).items() if name not in self.hidden}
        super().on_epoch_end(epoch, shown)

    def on_train_batch_end(self, batch, logs=None):
        shown = self.verbose == 1 and batch == 0
        if shown:
            self.progbar.verbose = 0
        super().on_train_batch_end(batch, logs)
        if shown:
            self.progbar.verbose = 1


class Lines(keras.callbacks.Callback):
    """A line each half minute of an epoch, for output that is no terminal."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Event()  # the first batch is done
        self.epoch = 0
        self.last = self.first = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1
        self.last = monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = monotonic()
        self.begun.set()
        if batch == 0:
            self.first = now
        steps = self.params["steps"]
        if now - self.last < LINE_SECONDS or batch + 1 == steps:
            return
        self.last = now
        line = f"Epoch {self.epoch}: {batch + 1} of {steps} batches"
        if batch > 0:
            left = (now - self.first) / batch * (steps - batch - 1)
            line += f", some {_duration(left)} left"
        print(f"{line}, loss {float((logs or {}).get('loss', 0)):.4f}", flush=True)


@contextmanager
def shown_progress(
    verbose: int, hidden: Sequence[str] = ()
) -> Iterator[list[keras.callbacks.Callback]]:
    """Yields the callbacks that show the progress of an epoch, without the metrics `hidden`, while
    `fit` runs; they come last.

    Without a terminal, a line every half minute reports that the first batch, which may include the
    compilation, is not done yet.
    """
    if verbose in (0, 1):
        yield [Bar(hidden)] if verbose else []
        return
    lines = Lines()
    threading.Thread(target=_say_waiting, args=(lines.begun,), daemon=True).start()
    try:
        yield [lines, Bar(hidden)]
    finally:
        lines.begun.set()


def _say_waiting(begun):
    started = monotonic()
    while not begun.wait(LINE_SECONDS):
        print(f"The first batch is not done after {monotonic() - started:.0f} s", flush=True)


def _duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
