"""The scripts of `benchmarks/`, for the tests that call their functions."""

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def script():
    """Imports a script by its name, where it finds those that it imports."""
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module
    sys.path.remove(str(SCRIPTS))
