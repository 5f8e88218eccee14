"""A backend that cannot be had is stated in one sentence."""

import builtins

import pytest

from dmformer_keras import DMFormerError
from dmformer_keras.cli import backend, main


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
        backend.importlib.util, "find_spec", lambda name: object() if name == "jax" else None
    )
    importing_keras_raises(ModuleNotFoundError("No module", name="tensorflow"))
    assert main(["presets"]) == 1
    message = capsys.readouterr().err
    assert 'pip install "dmformer-keras[tensorflow]"' in message
    assert "KERAS_BACKEND=jax" in message
    assert "Traceback" not in message


def test_an_unknown_backend_is_stated(importing_keras_raises, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    importing_keras_raises(ValueError("Unable to import backend : theano"))
    with pytest.raises(DMFormerError, match=r"theano.*tensorflow, jax or torch"):
        backend.start()


def test_other_missing_packages_are_not_taken_for_the_backend(importing_keras_raises):
    importing_keras_raises(ModuleNotFoundError("No module", name="h5py"))
    with pytest.raises(ModuleNotFoundError):
        backend.start()


def test_the_standard_error_works_again_after_the_start(capfd):
    backend.start()
    backend.os.write(2, b"still there")
    assert "still there" in capfd.readouterr().err
