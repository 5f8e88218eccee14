"""The descriptions in a preset's folder, in the form that KerasHub and KerasCV read too."""

import keras

from dmformer_keras.presets.folder import (
    KERAS_CV_NAME,
    KERAS_HUB_NAME,
    PLAIN_NAME,
    WEIGHTS_FILE,
)
from dmformer_keras.task_table import task_of_class

# What KerasHub's class of a task asks of a file, and ours know without it.
KERAS_HUB_ARGUMENTS = ("backbone", "head", "preprocessor")


def preset_config(backbone):
    """Returns the backbone's config with what KerasHub and KerasCV read in the file."""
    config = {**_serialized(backbone), "weights": WEIGHTS_FILE}
    # Gradient checkpointing is left out: it suits one machine, and would cost others time.
    config["config"].pop("gradient_checkpointing", None)
    if config["registered_name"] in (PLAIN_NAME, KERAS_CV_NAME):
        # KerasHub builds the class of this name, its own. Where KerasHub is not imported
        # nothing has it, and Keras falls back to `module` and `class_name`.
        config |= {"module": "dmformer_keras.backbone", "registered_name": KERAS_HUB_NAME}
    if backbone.dtype_policy.compute_dtype != backbone.dtype_policy.variable_dtype:
        # KerasHub fails on a mixed policy in a file.
        config |= {"mixed_precision": config["config"]["dtype"]}
        config["config"]["dtype"] = None
    return config


def task_config(model, arguments):
    """Returns the description of a task, of our class, with what KerasHub's class needs too."""
    cls = getattr(model, "plain_class", type(model))
    row = task_of_class(cls)
    backbone = preset_config(model.backbone)
    del backbone["weights"]
    return {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "config": {**arguments, "head": cls.__name__, "backbone": backbone},
        "registered_name": row.keras_hub_class if row else keras.saving.get_registered_name(cls),
    }


def converter_config(backbone):
    """Returns the description of what KerasHub prepares images by: their size, if there is one."""
    shape = backbone.input.shape[1:]
    spatial = shape[:2] if backbone.data_format == "channels_last" else shape[1:]
    size = None if None in spatial else list(spatial)
    return {
        "module": "dmformer_keras.integrations.keras_hub_tasks",
        "class_name": "DMFormerImageConverter",
        "config": {"image_size": size, "data_format": backbone.data_format},
        "registered_name": "dmformer_keras>KerasHubDMFormerImageConverter",
    }


def _serialized(model):
    """Returns Keras's own description of a model, less what only a compiled one needs."""
    config = keras.saving.serialize_keras_object(model)
    return {key: config[key] for key in ("module", "class_name", "config", "registered_name")}
