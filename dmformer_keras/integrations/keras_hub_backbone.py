"""`keras_hub.models.DMFormerBackbone`."""

from typing import Any, Self

import keras
import wrapt
from keras_hub.src.models.feature_pyramid_backbone import FeaturePyramidBackbone
from keras_hub.src.utils.preset_utils import register_presets

from dmformer_keras.backbone import DMFormerBackbone as PlainBackbone
from dmformer_keras.integrations.functional import settle_bases
from dmformer_keras.presets import Preset, list_presets, weights_folder
from dmformer_keras.type_names import Config, InputShape, PathLike

settle_bases(FeaturePyramidBackbone)


@keras.saving.register_keras_serializable(package="dmformer_keras", name="KerasHubDMFormerBackbone")
class DMFormerBackbone(PlainBackbone, FeaturePyramidBackbone):
    """`dmformer_keras.DMFormerBackbone` as a KerasHub backbone.

    The same model and presets; also a `keras_hub.models.FeaturePyramidBackbone`, for
    the parts of KerasHub that ask for one. Reach it as
    `keras_hub.models.DMFormerBackbone` once both libraries are imported, in either order.

    Args:
        *args: positional arguments of `dmformer_keras.DMFormerBackbone`.
        image_shape: KerasHub's name for `input_shape`.
        **kwargs: the other arguments of `dmformer_keras.DMFormerBackbone`.

    Example:

    >>> import keras_hub
    >>> backbone = keras_hub.models.DMFormerBackbone.from_preset(
    ...     "dmformer_n", image_shape=(64, 64, 3)
    ... )
    >>> sorted(backbone.pyramid_outputs)
    ['P2', 'P3', 'P4', 'P5']
    """

    def __init__(self, *args: Any, image_shape: InputShape | None = None, **kwargs: Any) -> None:
        super().__init__(*args, input_shape=image_shape, **kwargs)  # type: ignore[misc]

    @property
    def image_shape(self) -> InputShape:
        """The shape of one image, without the batch."""
        return self._constructor_config["input_shape"]

    @classmethod
    def from_preset(
        cls, preset: PathLike | Preset, load_weights: bool | None = None, **overrides: Any
    ) -> Self:
        """As `dmformer_keras.DMFormerBackbone.from_preset`; `image_shape` is an override too."""
        if "image_shape" in overrides:
            overrides["input_shape"] = overrides.pop("image_shape")
        return super().from_preset(preset, load_weights=load_weights, **overrides)

    def save_to_preset(  # type: ignore[override]  # KerasHub's arguments
        self, preset_dir: PathLike, max_shard_size: Any = None
    ) -> None:
        """Writes config and weights to a folder, as KerasHub's other backbones do.

        KerasHub's tasks call this in the midst of writing their own files, which
        `dmformer_keras.DMFormerBackbone.save_to_preset` would clear away.

        Args:
            preset_dir: str. The folder.
            max_shard_size: KerasHub's. It does nothing: the weights are always one file.
        """
        FeaturePyramidBackbone.save_to_preset(self, preset_dir, max_shard_size=None)

    def get_config(self) -> Config:
        config = super().get_config()
        config["image_shape"] = config.pop("input_shape")
        # KerasHub's policy, because it includes layers that were quantized later.
        config["dtype"] = FeaturePyramidBackbone.get_config(self)["dtype"]
        return config

    @classmethod
    def from_config(cls, config: Config) -> Self:
        config = dict(config)
        # A preset may have been written by another class of this project.
        input_shape = config.pop("input_shape", None)
        config.setdefault("image_shape", input_shape)
        return FeaturePyramidBackbone.from_config.__func__(cls, config)


def _add_to(models):
    models.DMFormerBackbone = DMFormerBackbone
    register_presets(
        {
            name: {"metadata": metadata, "kaggle_handle": str(weights_folder() / name)}
            for name, metadata in list_presets().items()
            if (weights_folder() / name).is_dir()
        },
        DMFormerBackbone,
    )


wrapt.register_post_import_hook(_add_to, "keras_hub.models")
