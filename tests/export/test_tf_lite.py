"""What is taken of TensorFlow's TFLite converter, and what is said where it is gone."""

import importlib
import re
from pathlib import Path

import pytest

import dmformer_keras
from dmformer_keras.errors import DMFormerError
from dmformer_keras.export import tf_lite

tensorflow = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize("name", tf_lite.NAMES)
def test_a_name_that_is_gone_is_told(name, monkeypatch):
    assert getattr(tf_lite, name) is not None
    module, attribute = tf_lite.NAMES[name]
    monkeypatch.setattr(tf_lite, "_module", lambda wanted: object())
    gone = re.escape(f"{module}.{attribute}")
    with pytest.raises(DMFormerError, match=f"{tensorflow.__version__} has no {gone}, which"):
        getattr(tf_lite, name)


def test_other_names_are_none_of_this_module():
    with pytest.raises(AttributeError, match="nothing"):
        _ = tf_lite.nothing
    assert importlib.import_module("dmformer_keras.export.tf_lite") is tf_lite


def test_nothing_else_touches_the_converter():
    package = Path(dmformer_keras.__file__).parent
    touching = {
        path.name
        for path in package.rglob("*.py")
        if re.search(r"tf\.lite\b|tensorflow\.lite\b", path.read_text(encoding="utf-8"))
    }
    assert touching == {"tf_lite.py"}
