"""Presets: named architectures, and folders that hold a model's config and weights.

```python
import dmformer_keras
from dmformer_keras.presets import list_presets, read_preset

list_presets()                                   # {name: metadata} of what comes with the package
read_preset("dmformer_t_imagenette").metadata    # what is known of one: sizes, classes, accuracy
dmformer_keras.load("dmformer_t_imagenette")     # the model
```

`folder` says what a preset's folder holds, `finding` how a name leads to it, `loading` and
`saving` what lies between it and a model, `download` and `upload` the way to and from the
Hugging Face Hub and Kaggle.
"""

from typing import TYPE_CHECKING

from dmformer_keras.architectures import ARCHITECTURES
from dmformer_keras.lazy import imported_when_used
from dmformer_keras.presets.download import download_preset, is_address
from dmformer_keras.presets.finding import list_presets, read_preset, weights_folder
from dmformer_keras.presets.folder import (
    CONFIG_FILE,
    CONVERTER_FILE,
    KERAS_CV_NAME,
    KERAS_HUB_NAME,
    METADATA_FILE,
    PLAIN_NAME,
    PREPROCESSOR_FILE,
    SHARDED_FILE,
    TASK_FILE,
    TASK_WEIGHTS_FILE,
    WEIGHTS_FILE,
    Preset,
    image_shape,
    verify_checksum,
)
from dmformer_keras.presets.upload import model_card, upload_preset
from dmformer_keras.presets.weights_files import check_weights
from dmformer_keras.task_table import TASKS

if TYPE_CHECKING:
    from dmformer_keras.presets.loading import (
        adapt_input_channels,
        class_to_build,
        has_head_for,
        load_backbone,
        load_task,
        stored_head,
    )
    from dmformer_keras.presets.saving import SAVING, save_backbone, save_task

__all__ = [
    "ARCHITECTURES",
    "CONFIG_FILE",
    "CONVERTER_FILE",
    "KERAS_CV_NAME",
    "KERAS_HUB_NAME",
    "METADATA_FILE",
    "PLAIN_NAME",
    "PREPROCESSOR_FILE",
    "SAVING",
    "SHARDED_FILE",
    "TASK_FILE",
    "TASK_WEIGHTS_FILE",
    "WEIGHTS_FILE",
    "Preset",
    "adapt_input_channels",
    "check_weights",
    "class_to_build",
    "download_preset",
    "has_head_for",
    "image_shape",
    "is_address",
    "list_presets",
    "load_backbone",
    "load_task",
    "model_card",
    "read_preset",
    "save_backbone",
    "save_task",
    "stored_head",
    "upload_preset",
    "verify_checksum",
    "weights_folder",
]


if not TYPE_CHECKING:  # for type checkers every name would exist
    _find = imported_when_used(
        __name__,
        {
            "dmformer_keras.presets.loading": (
                "adapt_input_channels",
                "class_to_build",
                "has_head_for",
                "load_backbone",
                "load_task",
                "stored_head",
            ),
            "dmformer_keras.presets.saving": (
                "SAVING",
                "save_backbone",
                "save_task",
            ),
        },
    )

    def __getattr__(name):
        if name == "KERAS_HUB_TASKS":  # now a column of the table of tasks
            return {task: row.keras_hub_class for task, row in TASKS.items()}
        return _find(name)


def __dir__():
    return __all__
