"""Settings of the whole test run: the backend, slow tests, real data, seeds."""

import os
from pathlib import Path

import pytest

# Quiet and steady: TensorFlow's start-up log, and torch's threads, which stall on few cores.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_report_header():
    return f"Keras backend: {os.environ['KERAS_BACKEND']}"


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


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
