"""DMFormer inside other libraries: KerasCV and KerasHub.

Nothing here imports those libraries. `register` leaves hooks that run when, and only
if, the user imports one of them; then `keras_cv.models.DMFormerBackbone` and
`keras_hub.models.DMFormerBackbone` exist.
"""

import functools
import importlib

import wrapt

_INTEGRATIONS = {
    "keras_cv.api.models": "dmformer_keras.integrations.keras_cv",
    "keras_hub.models": "dmformer_keras.integrations.keras_hub",
}


def register() -> None:
    """Adds DMFormer to each library as soon as it is imported, at once if it already is."""
    for library, integration in _INTEGRATIONS.items():
        wrapt.register_post_import_hook(functools.partial(_load, integration), library)


def _load(integration, library):
    """Imports an integration, which adds itself to its library.

    Where the integration itself brought the library in, as when Keras loads a file
    that names it, it is half imported here: then nothing is left to do.
    """
    importlib.import_module(integration)
