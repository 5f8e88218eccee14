"""Run as a process: latency by number of threads, and peak memory, of an exported file."""

import json
import os
import statistics
import sys
import time

import numpy as np

from dmformer_keras.export.exported_model import load_exported
from dmformer_keras.system.memory import forget_peak, peak_resident, resident_now

_SECONDS = 0.5
_LEAST_RUNS = 3


def measure(path, shape):
    """Returns what `verification.measured` reports."""
    threads, counts = 1, []
    while threads < (os.cpu_count() or 1):
        counts.append(threads)
        threads *= 2
    counts.append(os.cpu_count() or 1)
    if os.path.isdir(path):  # a SavedModel runs on TensorFlow's threads, all of them
        counts = counts[-1:]
    load_exported(path, 1)  # brings the runtime's libraries
    latency, peak = {}, None
    for threads in counts:
        forget_peak()
        base = resident_now()
        model = load_exported(path, threads)
        images = np.random.default_rng(0).uniform(0, 255, (model.input.shape[0] or 1, *shape))
        images = images.astype(np.float32)
        model.predict_on_batch(images)
        latency[str(threads)] = round(1000 * _median_seconds(model, images), 3)
        peak = peak_resident() - base
    return {"latency_ms": latency, "peak_memory_bytes": peak}


def _median_seconds(model, images):
    times = []
    while sum(times) < _SECONDS or len(times) < _LEAST_RUNS:
        start = time.perf_counter()
        model.predict_on_batch(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(measure(request["path"], request["shape"])))
