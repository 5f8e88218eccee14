"""What an export says before it converts anything."""

import logging

import pytest
from helpers import tiny_classifier

from dmformer_keras.export.preparation import prepare


@pytest.mark.once_under_torch
def test_a_model_without_class_names_is_asked_for_them(caplog, monkeypatch):
    # The command, which other tests call, shows its lines itself.
    logger = logging.getLogger("dmformer_keras.export")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])
    caplog.set_level(logging.WARNING, logger.name)
    prepare(tiny_classifier(2, ["cat", "dog"], input_shape=(32, 32, 3)), None, fuse=False)
    assert caplog.records == []
    prepare(tiny_classifier(2, input_shape=(32, 32, 3)), None, fuse=False)
    assert "class_names=[...]" in caplog.text
    # A backbone has no classes to name.
    prepare(tiny_classifier(2, input_shape=(32, 32, 3)).backbone, None, fuse=False)
    assert len(caplog.records) == 1
