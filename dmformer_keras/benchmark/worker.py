"""The process of one contestant: prepares it, then runs a round whenever it is told to."""

import contextlib
import json
import re
import sys
import tempfile
import time
from multiprocessing.connection import Connection

from dmformer_keras.benchmark import exported, runtimes
from dmformer_keras.benchmark.contestants import RUNTIMES
from dmformer_keras.benchmark.measurement import from_json
from dmformer_keras.system.memory import forget_peak, peak_resident, resident_now

# Steps longer than this need no warm-up step.
_LONG_STEP = 1.0


def main(contestant, threads, connection):
    """Answers the parent until it has ended."""
    try:
        step, facts = _prepare(contestant, threads)
    except Exception as error:
        text = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())  # Keras writes in bold
        _send(connection, {"failed": f"{type(error).__name__}: {text[:300]}"})
        raise
    _send(connection, facts)
    last_step = facts["first_step_seconds"]
    idle_since, idle_cpu = time.perf_counter(), time.process_time()
    with contextlib.suppress(EOFError):  # the parent has ended
        while True:
            seconds = json.loads(connection.recv_bytes())
            waited = max(time.perf_counter() - idle_since, 1e-9)
            idle = (time.process_time() - idle_cpu) / waited
            if last_step < _LONG_STEP:
                step()  # the caches hold the other processes' data
            times = _timed(step, seconds)
            last_step = times[-1]
            _send(connection, {"times": times, "idle_cpu": idle, "idle_seconds": waited})
            idle_since, idle_cpu = time.perf_counter(), time.process_time()


def _prepare(contestant, threads):
    """Returns (step, facts about the contestant)."""
    start = time.perf_counter()
    if RUNTIMES[contestant.runtime].converts:
        with tempfile.TemporaryDirectory(prefix="dmformer-benchmark-") as folder:
            converted = exported.convert(contestant, folder)
            base = resident_now()
            prepared = exported.prepare(contestant, folder, converted, threads)
    else:
        _limit_torch(contestant, threads)
        base = resident_now()
        prepared = runtimes.prepare(contestant)
    values = runtimes.first_values(prepared.step())  # traces and compiles
    prepare_seconds = time.perf_counter() - start
    if contestant.device == "gpu":
        forget, peak = runtimes.gpu_memory(contestant)
    else:
        forget, peak = forget_peak, peak_resident
    prepared.step()  # a framework may compile again for the second call
    forget()
    start = time.perf_counter()
    prepared.step()
    first_step = time.perf_counter() - start
    return prepared.step, {
        "parameters": prepared.parameters,
        "multiply_accumulates": prepared.multiply_accumulates,
        "prepare_seconds": prepare_seconds,
        "first_step_seconds": first_step,
        "base_memory": None if contestant.device == "gpu" else base,
        "peak_memory": peak() - (0 if contestant.device == "gpu" else base),
        "first_values": values,
    }


def _timed(step, seconds):
    times = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def _limit_torch(contestant, threads):
    if RUNTIMES[contestant.runtime].backend == "torch":
        import torch

        torch.set_num_threads(threads)


def _send(connection, answer):
    connection.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    main(from_json(sys.argv[1]), int(sys.argv[2]), Connection(int(sys.argv[3])))
