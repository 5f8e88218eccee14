"""The table of tasks, and that every class in it inherits the shared tests."""

import pytest
import test_classifier
import test_segmenter
from suites import TaskSuite

from dmformer_keras import DMFormerError, SemanticFPN
from dmformer_keras.segmenter import Segmenter
from dmformer_keras.task_table import SEGMENTATION_HEADS, TASKS, register_task, task_of_class

pytestmark = pytest.mark.backend_independent


def test_every_task_of_the_package_inherits_the_shared_tests():
    tested = {
        suite.cls
        for module in (test_classifier, test_segmenter)
        for name, suite in vars(module).items()
        if name.startswith("Test") and issubclass(suite, TaskSuite)
    }
    assert tested == {
        row.cls for row in TASKS.values() if row.cls.__module__.startswith("dmformer_keras.")
    }


def test_a_task_needs_names_of_its_own():
    with pytest.raises(DMFormerError, match="'upernet' is that of UPerNet"):
        register_task("segment", recipe_name="upernet")(type("OtherHead", (Segmenter,), {}))
    with pytest.raises(DMFormerError, match="There is a task 'SemanticFPN' already"):
        register_task("segment")(type("SemanticFPN", (Segmenter,), {}))
    with pytest.raises(DMFormerError, match="kind must be one of classify, segment"):
        register_task("detect")
    assert TASKS["SemanticFPN"].cls is SEGMENTATION_HEADS["semantic_fpn"] is SemanticFPN


def test_a_subclass_has_no_row_of_its_own():
    assert task_of_class(SemanticFPN) is TASKS["SemanticFPN"]
    assert task_of_class(type("Mine", (SemanticFPN,), {})) is None
