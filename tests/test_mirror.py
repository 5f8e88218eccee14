"""Where a module's tests are: in the file of its name, or in the one that is said here."""

from pathlib import Path

import pytest

import dmformer_keras

PACKAGE = Path(dmformer_keras.__file__).parent
TESTS = Path(__file__).parent

# Tested through what uses them, by what users call: {file of tests: modules}.
ELSEWHERE = {
    "test_public_names.py": ["drawing", "hub", "lazy"],
    "test_messages.py": ["errors"],
    "test_types.py": ["type_names"],
    "test_fusing.py": ["fused_weights", "layers/fused"],
    "test_extending.py": ["task_model"],
    "benchmark/test_measurement.py": ["benchmark/worker"],
    "benchmark/test_runtimes.py": ["benchmark/exported"],
    "benchmark/test_results.py": ["benchmark/plot"],
    "cli/test_commands.py": [
        *("cli/evaluate", "cli/explain", "cli/export", "cli/options", "cli/package"),
        *("cli/predict", "cli/presets", "cli/summary", "cli/train"),
    ],
    "cli/test_arguments.py": [
        *("cli/arguments/benchmark", "cli/arguments/demo", "cli/arguments/evaluate"),
        *("cli/arguments/explain", "cli/arguments/export", "cli/arguments/package"),
        *("cli/arguments/predict", "cli/arguments/presets", "cli/arguments/quickstart"),
        *("cli/arguments/shared", "cli/arguments/summary", "cli/arguments/train"),
        "cli/arguments/upload",
    ],
    "data/test_sources.py": ["data/arrays", "data/folders", "data/image_source", "data/trees"],
    "data/test_layout.py": ["data/other_files"],
    "data/test_segmentation_source.py": ["data/segmentation_folder"],
    "data/test_pipelines.py": ["data/plan"],
    "data/test_device_augment.py": ["data/device_rand_augment"],
    "explain/test_explain.py": ["explain/attention", "explain/class_activation", "explain/inside"],
    "export/test_exported_model.py": ["exported_files", "export/runners"],
    "export/test_verification.py": ["export/comparison", "export/latency"],
    "export/test_tflite.py": [
        *("export/calibration", "export/processes", "export/quiet", "export/rebuilding"),
        *("export/tflite_file", "export/tflite_metadata", "export/tflite_ranges"),
    ],
    "export/test_other_formats.py": [
        *("export/onnx", "export/openvino", "export/pytorch_module", "export/saved_model"),
    ],
    "export/test_int8_on_servers.py": ["export/onnx_int8"],
    "inference/test_answers.py": ["inference/model_outputs"],
    "integrations/test_keras_hub.py": [
        "integrations/functional",
        "integrations/keras_hub_backbone",
    ],
    "layers/test_convolution.py": [
        *("layers/backend_paths", "layers/common", "layers/filter_gradient"),
    ],
    "presets/test_presets.py": [
        *("presets/finding", "presets/folder", "presets/loading"),
    ],
    "presets/test_saving.py": ["system/scratch"],
    "presets/test_damage.py": ["presets/weights_files"],
    "presets/test_hub.py": ["presets/download"],
    "presets/test_upload.py": ["cli/upload", "presets/markdown", "system/secrets"],
    "integrations/test_keras_hub_tasks.py": ["presets/keras_hub_format"],
    "training/test_distribution.py": ["layers/replicas"],
    "training/test_grouped_updates.py": ["grouped_optimizers"],
    "training/test_engine.py": [
        *("training/batches", "training/folders", "training/identity"),
        *("training/run_checks", "training/run_report", "training/tasks"),
    ],
}

pytestmark = pytest.mark.backend_independent


def modules():
    """All but recipes, which are data: `training/test_recipe.py` reads each of them."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return {
        path.as_posix()
        for path in paths
        if not path.name.startswith("__") and path.parent.name != "recipes"
    }


def has_its_file(module):
    path = Path(module)
    return (TESTS / path.parent / f"test_{path.name}.py").is_file()


def test_each_module_has_its_tests_or_is_said_to_be_tested_elsewhere():
    listed = {module for several in ELSEWHERE.values() for module in several}
    without = {module for module in modules() if not has_its_file(module)}
    assert sorted(without - listed) == [], "name their tests in ELSEWHERE"
    assert sorted(listed & modules() - without) == [], "these have files of their own"


def test_what_is_named_is_there():
    assert [file for file in ELSEWHERE if not (TESTS / file).is_file()] == []
    named = [module for several in ELSEWHERE.values() for module in several]
    assert len(named) == len(set(named))
    assert sorted(set(named) - modules()) == []


def test_each_folder_of_tests_is_one_of_the_package():
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    assert sorted(folders - {path.name for path in PACKAGE.iterdir()}) == ["examples"]
