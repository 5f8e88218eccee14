"""Settings of the whole test run: the backend, slow tests, real data, seeds."""

import contextlib
import importlib.util
import os
import random
import tempfile
from pathlib import Path

import pytest

# The shared suites' assertions explain themselves as those of test modules do.
pytest.register_assert_rewrite("suites", "helpers")

# Quiet and steady: TensorFlow's start-up log, and torch's threads, which stall on few cores.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:  # beside others
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
# JAX compiles each operation of each shape, most of the time of a run on a CPU, and half of it goes
# into optimizing. What one test or process has compiled, the next ones read from here.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "dmformer_keras_tests_jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# How many cases of a property are tried: few, the same in each run, or a thousand of a seed that is
# printed. `--slow` takes the thousand, and so does `--hypothesis-profile thousand` by itself.
hypothesis = None
with contextlib.suppress(ImportError):
    import hypothesis

    common = {
        "deadline": None,  # `helpers.stated` bounds each
        "print_blob": True,
        "database": None,
        "suppress_health_check": list(hypothesis.HealthCheck),
    }
    hypothesis.settings.register_profile("few", max_examples=100, derandomize=True, **common)
    hypothesis.settings.register_profile("thousand", max_examples=1000, **common)
    hypothesis.settings.load_profile("few")


# Each takes up to 3 GB.
PROCESSES = 4


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Gives all tests to several processes where pytest-xdist is there and `-n` is not given.

    A part of the tests runs in this process, for each imports Keras anew. Each begins with tests
    that follow each other, for those share models and trainings.
    """
    if IS_WORKER or not config.pluginmanager.hasplugin("xdist"):
        return
    option = config.option
    is_part = config.args_source is pytest.Config.ArgsSource.ARGS
    is_part = is_part or option.keyword or option.markexpr
    if option.numprocesses is None and option.dist == "no" and not is_part:
        option.numprocesses = "logical"
        option.maxprocesses = option.maxprocesses or PROCESSES
    if option.numprocesses and option.dist == "no":
        option.dist = "worksteal"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if hypothesis is None:
        return
    if config.getoption("--slow") and not config.getoption("--hypothesis-profile", None):
        hypothesis.settings.load_profile("thousand")
    # Before Hypothesis reads it. What never varies has no need of it.
    if config.getoption("--hypothesis-seed", 0) is None:
        given = getattr(config, "workerinput", {}).get("hypothesis_seed")
        config.option.hypothesis_seed = given or str(random.SystemRandom().randrange(2**32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Hands the seed that is printed on to each process of pytest-xdist."""
    node.workerinput["hypothesis_seed"] = node.config.getoption("--hypothesis-seed", None)


def pytest_report_header(config):
    return [f"Keras backend: {os.environ['KERAS_BACKEND']}", *cases_text(config)]


def pytest_terminal_summary(terminalreporter, config):
    # -q leaves the header out.
    if terminalreporter.verbosity < 0:
        terminalreporter.write_line("".join(cases_text(config)))


def cases_text(config):
    """How many cases of a property are tried, and their seed, a list of one line or none."""
    if hypothesis is None:
        return []
    settings = hypothesis.settings.default
    seed = f"--hypothesis-seed={config.option.hypothesis_seed}"
    seed = "always the same" if settings.derandomize else seed
    return [f"Cases of a property: {settings.max_examples:,}, {seed}"]


# What has no part of a backend runs under one.
ALONE = {
    "backend_independent": "tensorflow",
    "once_under_torch": "torch",
    "once_under_jax": "jax",
}


def pytest_collection_modifyitems(config, items):
    backend = os.environ["KERAS_BACKEND"]
    slow = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        is_slow = any(
            "on" not in mark.kwargs or backend in mark.kwargs["on"]
            for mark in item.iter_markers("slow")
        )
        if is_slow and not config.getoption("--slow"):
            item.add_marker(slow)
        alone = next((ALONE[mark.name] for mark in item.iter_markers() if mark.name in ALONE), None)
        # Where that one is not installed, under the others.
        if alone not in (None, backend) and importlib.util.find_spec(alone):
            reason = f"no backend has a part in it: runs under {alone} only"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seed():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def unmeasured(monkeypatch):
    """Exports that are compared with Keras, without the process that measures their latency."""
    figures = {"latency_ms": {"1": 1.0}, "peak_memory_bytes": 1}
    monkeypatch.setattr("dmformer_keras.export.verification.measured", lambda path, shape: figures)


@pytest.fixture
def measured_here(monkeypatch):
    """Exports whose latency is measured in this process, not in one of its own."""
    from dmformer_keras.export import latency

    monkeypatch.setattr(latency, "_SECONDS", 0)  # some runs are enough
    monkeypatch.setattr("dmformer_keras.export.verification.measured", latency.measure)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets named by DMFORMER_DATA; skips where there is none."""
    folder = os.environ.get("DMFORMER_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real data: set DMFORMER_DATA to a folder with imagenette/, camvid/, ...")
    return Path(folder)
