"""Runs the whole test suite once on each backend: `python tests [arguments of pytest]`.

pytest runs on one backend, for Keras chooses it when it is imported. Here two processes
run at a time: TensorFlow's, which has the most to do, beside PyTorch's and then JAX's.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LANES = (("tensorflow",), ("torch", "jax"))


def run_lane(backends, arguments):
    """Runs pytest on one backend after the other; returns the worst exit code."""
    return max(run_backend(backend, arguments) for backend in backends)


def run_backend(backend, arguments):
    start = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    minutes = (time.perf_counter() - start) / 60
    print(f"\n=== {backend}: {minutes:.1f} minutes\n{finished.stdout}", flush=True)
    return finished.returncode


def main(arguments):
    with ThreadPoolExecutor(len(LANES)) as pool:
        return max(pool.map(lambda lane: run_lane(lane, arguments), LANES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
