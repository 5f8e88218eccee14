"""Runs the whole test suite on each backend: `python tests [arguments of pytest]`.

pytest runs on one backend, for Keras chooses it when it is imported. Two processes run
at a time, what takes longest first. Tests that no backend has a part in run once: with those of
PyTorch, or by themselves under TensorFlow.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROCESSES = 2
NO_TESTS_COLLECTED = 5
RUNS = (
    ("torch", "not (backend_independent or once_under_jax)"),
    ("jax", "not (backend_independent or once_under_torch)"),
    ("tensorflow", "not (backend_independent or once_under_torch or once_under_jax)"),
    ("tensorflow", "backend_independent"),
)


def run_pytest(backend, marks, arguments):
    """Runs the tests with these marks on a backend and prints what pytest said.

    Returns:
        int, pytest's exit code, where choosing no test (by `-k`, say) is no failure.
    """
    start = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", marks, *arguments],
        cwd=Path(__file__).parent.parent,
        env={"TF_NUM_INTRAOP_THREADS": "1", **os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    minutes = (time.perf_counter() - start) / 60
    print(f"\n=== {backend}, {marks}: {minutes:.1f} minutes\n{finished.stdout}", flush=True)
    return 0 if finished.returncode == NO_TESTS_COLLECTED else finished.returncode


def main(arguments):
    with ThreadPoolExecutor(PROCESSES) as pool:
        codes = list(pool.map(lambda run: run_pytest(*run, arguments), RUNS))
    return int(any(codes))  # a process ended by a signal has a negative one


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
