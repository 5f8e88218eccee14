"""Lets contestants take turns, each in a process of its own."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from typing import Any

from dmformer_keras.benchmark.contestants import RUNTIMES, Contestant
from dmformer_keras.errors import DMFormerError


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        threads: positive int, processors that each contestant may use.
        rounds: positive int.
        seconds: float, the least that a contestant's turn in a round lasts.
        timeout: float, seconds after which a contestant that does not answer is ended.
    """

    threads: int
    rounds: int = 11
    seconds: float = 1.0
    timeout: float = 900.0


def processors():
    """Returns the numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count()))


def check_threads(threads: int) -> None:
    """Checks that there are as many processors as threads are asked for."""
    if threads > len(processors()):
        raise DMFormerError(
            f"{threads} threads are asked for, but {len(processors())} processors may be used "
            "here; ask for fewer (--threads)."
        )


def measure(
    contestants: Sequence[Contestant], settings: Settings, report: Callable[[str], Any] = print
) -> list[dict[str, Any]]:
    """Measures contestants in turns, in another order each round.

    Args:
        contestants: sequence of Contestant. All are held in memory together.
        settings: Settings.
        report: function that takes a line on the progress.

    Returns:
        List of dicts, one for each contestant, in their order: its attributes, `name`;
        `status`, "measured", "left out" or "failed", with `reason`; what was counted; and
        `rounds`, for each round the seconds of each step.

    Raises:
        DMFormerError: more threads are asked for than there are processors.
    """
    check_threads(settings.threads)
    records, workers = [], {}
    with _terminated_by_an_exception(), contextlib.ExitStack() as stack:
        for number, contestant in enumerate(contestants, start=1):
            record = {**vars(contestant), "name": contestant.name, "rounds": []}
            records.append(record)
            reason = contestant.left_out()
            if reason:
                record.update(status="left out", reason=reason)
            else:
                worker = stack.enter_context(_Worker(contestant, settings))
                record.update(status="measured", **worker.prepare())
                if "failed" in record:
                    _fail(record, worker, record.pop("failed"))
                else:
                    workers[number - 1] = worker
            report(f"prepared {number}/{len(contestants)}  {contestant.label}{_outcome(record)}")
        for number in range(1, settings.rounds + 1):
            _one_round(number, records, workers)
            report(f"round {number}/{settings.rounds}")
    return records


@contextlib.contextmanager
def _terminated_by_an_exception():
    """Lets SIGTERM end the workers too, as Ctrl-C does: they have sessions of their own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def as_json(contestant):
    """A contestant as another process reads it by `from_json`."""
    return json.dumps(vars(contestant))


def from_json(text):
    """Returns the Contestant of `as_json`."""
    values = json.loads(text)
    lists = {key: tuple(values[key]) for key in ("forms", "image_size")}
    return Contestant(**{**values, **lists})


def _one_round(number, records, workers):
    turns = list(workers)
    random.Random(number).shuffle(turns)
    for index in turns:
        answer = workers[index].take_turn()
        if "failed" in answer:
            _fail(records[index], workers.pop(index), answer["failed"])
        else:
            records[index]["rounds"].append(answer["times"])
            records[index].setdefault("idle_cpu", []).append(answer["idle_cpu"])


def _fail(record, worker, reason):
    worker.end()
    record.update(status="failed", reason=reason)


def _outcome(record):
    if record["status"] == "measured":
        return f"  ({record['prepare_seconds']:.0f} s)"
    return f"  {record['status']}: {record['reason']}"


class _Worker:
    """The process of a contestant, seen from the parent; ended with the `with` block."""

    def __init__(self, contestant, settings):
        self._settings = settings
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
        self._ended = False
        self._connection, theirs = Pipe()
        arguments = [as_json(contestant), str(settings.threads), str(theirs.fileno())]
        with _on_processors(settings.threads):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dmformer_keras.benchmark.worker", *arguments],
                env={**os.environ, **_environment(contestant, settings.threads)},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches the parent only
            )
        theirs.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.end()

    def prepare(self):
        """Returns what the worker says of itself, or {"failed": reason}."""
        return self._answer()

    def take_turn(self):
        """Returns {"times": list of seconds, ...} or {"failed": reason}."""
        try:
            self._connection.send_bytes(json.dumps(self._settings.seconds).encode())
        except OSError:
            return {"failed": self._how_it_ended()}
        return self._answer()

    def end(self):
        """Ends the process and those that it started."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()
        self._log.close()

    def _answer(self):
        if not self._connection.poll(self._settings.timeout):
            return {"failed": f"no answer within {self._settings.timeout:.0f} seconds"}
        try:
            return json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            return {"failed": self._how_it_ended()}

    def _how_it_ended(self):
        code = self._process.wait()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with {code}: {(lines or ['no message'])[-1][:300]}"


def _environment(contestant, threads):
    """Returns what holds a framework to its backend, its threads and its device."""
    backend = RUNTIMES[contestant.runtime].backend
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Spinning threads slow the other processes down, and if another program uses a processor,
        # torch waits for its threads five times as long as it computes.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        # Several processes share the GPU.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    if backend:
        environment["KERAS_BACKEND"] = backend
    if contestant.device == "cpu":
        environment.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    return environment


@contextlib.contextmanager
def _on_processors(count):
    """Starts processes on the first processors only: some frameworks count those they see."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors()[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
