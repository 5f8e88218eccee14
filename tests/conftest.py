"""Settings of the whole test run: the backend, slow tests, real data, seeds."""

import os
import tempfile
from pathlib import Path

import pytest

# The shared suites' assertions explain themselves as those of test modules do.
pytest.register_assert_rewrite("suites", "helpers")

# Quiet and steady: TensorFlow's start-up log, and torch's threads, which stall on few cores.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# JAX compiles each operation of each shape, most of the time of a run on a CPU, and half of it goes
# into optimizing. What one test or process has compiled, the next ones read from here.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "dmformer_keras_tests_jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_report_header():
    return f"Keras backend: {os.environ['KERAS_BACKEND']}"


def pytest_collection_modifyitems(config, items):
    backend = os.environ["KERAS_BACKEND"]
    slow = pytest.mark.skip(reason="slow: run with --slow")
    once = pytest.mark.skip(reason="no backend has a part in it: runs under TensorFlow only")
    for item in items:
        is_slow = any(
            "on" not in mark.kwargs or backend in mark.kwargs["on"]
            for mark in item.iter_markers("slow")
        )
        if is_slow and not config.getoption("--slow"):
            item.add_marker(slow)
        if item.get_closest_marker("backend_independent") and backend != "tensorflow":
            item.add_marker(once)


@pytest.fixture(autouse=True)
def _seed():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets named by DMFORMER_DATA; skips where there is none."""
    folder = os.environ.get("DMFORMER_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real data: set DMFORMER_DATA to a folder with imagenette/, camvid/, ...")
    return Path(folder)
