"""What is imported together with KerasHub: our backbone and tasks, which add themselves to it."""

from dmformer_keras.integrations import keras_hub_tasks
from dmformer_keras.integrations.keras_hub_backbone import DMFormerBackbone

__all__ = ["DMFormerBackbone", "keras_hub_tasks"]
