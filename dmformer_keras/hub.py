"""Presets on the Hugging Face Hub and on Kaggle: `hf://user/repository`, `kaggle://...`.

The way there and back is in `dmformer_keras.presets.download` and `.upload`.
"""

from dmformer_keras.presets.download import KAGGLE_SCHEME, SCHEME, download_preset, is_address
from dmformer_keras.presets.upload import model_card, upload_preset

__all__ = [
    "KAGGLE_SCHEME",
    "SCHEME",
    "download_preset",
    "is_address",
    "model_card",
    "upload_preset",
]


def __dir__():
    return __all__
