"""A backend that cannot be had is stated in one sentence, before the package is imported."""

import builtins
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dmformer_command

pytestmark = pytest.mark.backend_independent


@pytest.fixture
def importing_keras_raises(monkeypatch):
    """Function: from now on `import keras` raises the error given."""

    def install(error):
        real_import = builtins.__import__

        def failing_import(name, *args, **kwargs):
            if name == "keras":
                raise error
            return real_import(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", failing_import)

    return install


def test_a_missing_backend_is_named_with_what_to_do(importing_keras_raises, monkeypatch, capsys):
    monkeypatch.setattr(
        dmformer_command.importlib.util,
        "find_spec",
        lambda name: object() if name == "jax" else None,
    )
    importing_keras_raises(ModuleNotFoundError("No module", name="tensorflow"))
    monkeypatch.setattr("sys.argv", ["dmformer", "summary", "dmformer_n"])
    assert dmformer_command.main() == 1
    message = capsys.readouterr().err
    assert 'pip install "dmformer-keras[tensorflow]"' in message
    assert "KERAS_BACKEND=jax" in message
    assert "Traceback" not in message


def test_an_unknown_backend_is_stated(importing_keras_raises, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    importing_keras_raises(ValueError("Unable to import backend : theano"))
    monkeypatch.setattr("sys.argv", ["dmformer", "summary", "dmformer_n"])
    assert dmformer_command.main() == 1
    message = capsys.readouterr().err
    assert "'theano'" in message
    assert "tensorflow, jax or torch" in message


def test_other_missing_packages_are_not_taken_for_the_backend(importing_keras_raises):
    importing_keras_raises(ModuleNotFoundError("No module", name="h5py"))
    with pytest.raises(ModuleNotFoundError):
        dmformer_command.start_keras()


def test_the_standard_error_works_again_after_the_start(capfd):
    dmformer_command.start_keras()
    os.write(2, b"still there")
    assert "still there" in capfd.readouterr().err


def test_the_installed_command_says_nothing_but_its_own():
    command = Path(sys.executable).with_name("dmformer")
    if not command.exists():
        pytest.skip("the package is not installed in this environment")
    finished = subprocess.run(
        [command, "presets"], capture_output=True, text=True, timeout=120, check=True
    )
    assert finished.stderr == ""
    assert "dmformer_s" in finished.stdout
