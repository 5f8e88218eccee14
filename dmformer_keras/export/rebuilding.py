"""Models built again from a changed configuration."""

import keras


def rebuilt(model, change):
    """Builds a model again from its configuration, parts of which are changed; returns
    `keras.Model` with weights of its own, which are not `model`'s.
    """
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    return keras.saving.deserialize_keras_object(_changed(config, change))


def _changed(part, change):
    if isinstance(part, (list, tuple)):
        return type(part)(_changed(entry, change) for entry in part)
    if not isinstance(part, dict):
        return part
    return change({key: _changed(value, change) for key, value in part.items()})
