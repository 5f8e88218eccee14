"""A training recipe as data: every number that a run depends on, checked at once."""

import dataclasses
import math
import numbers

from dmformer_keras.backbone import MINIMUM_SIZE, check_stages
from dmformer_keras.data import Augmentation
from dmformer_keras.errors import DMFormerError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
AUGMENTATIONS = ("none", "light", "standard")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: AdamW, a linear warm-up, then a cosine decay to zero.

    Args:
        epochs: int, positive, passes over the training images.
        batch_size: int, positive.
        image_size: int, at least 32, height and width in pixels; None takes the preset's
            own, or 224.
        channels: int, channels of the images; None means 3 for image files, and the
            arrays' own.
        learning_rate: float, positive, the peak that the warm-up reaches.
        warmup_epochs: float, from 0 to `epochs`; None means a tenth of `epochs`, at most 5.
        weight_decay: float, 0 or more, for kernels only: not for biases, norms or LayerScale.
        label_smoothing: float in [0, 1), the share of the target that all classes share.
        augmentation: "none", "light" or "standard", see `dmformer_keras.data.Augmentation`.
        stochastic_depth: float in [0, 1), or None for the preset's own.
        dropout: float in [0, 1), before the last layer, or None for the preset's own.
        clip_norm: float, positive, the norm that all gradients together are clipped to,
            or None.
        freeze_backbone: bool, train the head only.
        gradient_checkpointing: stages to compute again in the backward pass, such as (1, 2),
            True for all, False for none, see `DMFormerBackbone`: less memory, more time, the
            same results.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        seed: int, 0 or more: initial weights, order and changes of the images, dropout.

    Raises:
        DMFormerError: a value is outside its range.

    Example:

    >>> recipe = Recipe(epochs=20, learning_rate=5e-4)
    >>> recipe.warmup
    2.0
    >>> dataclasses.replace(recipe, epochs=100).warmup
    5.0
    """

    epochs: int = 30
    batch_size: int = 64
    image_size: int | None = None
    channels: int | None = None
    learning_rate: float = 1e-3
    warmup_epochs: float | None = None
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    augmentation: str = "standard"
    stochastic_depth: float | None = None
    dropout: float | None = None
    clip_norm: float | None = None
    freeze_backbone: bool = False
    gradient_checkpointing: bool | tuple[int, ...] = False
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        self._check_whole("epochs", 1)
        self._check_whole("batch_size", 1)
        self._check_whole("image_size", MINIMUM_SIZE, optional=True)
        self._check_whole("channels", 1, optional=True)
        self._check_whole("seed", 0)
        if self.seed >= 2**32:
            raise DMFormerError(f"seed must be below 2**32, not {self.seed}.")
        self._check_number("learning_rate", "over 0", lambda value: value > 0)
        self._check_number("weight_decay", "0 or more", lambda value: value >= 0)
        self._check_number("clip_norm", "over 0", lambda value: value > 0, optional=True)
        self._check_number(
            "warmup_epochs",
            f"from 0 to the number of epochs, {self.epochs}",
            lambda value: 0 <= value <= self.epochs,
            optional=True,
        )
        for field in ("label_smoothing", "stochastic_depth", "dropout"):
            self._check_number(
                field,
                "from 0 to below 1",
                lambda value: 0 <= value < 1,
                optional=field != "label_smoothing",
            )
        check_stages("gradient_checkpointing", self.gradient_checkpointing)
        Augmentation.named(self.augmentation)
        if self.precision not in PRECISIONS:
            raise DMFormerError(
                f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}."
            )

    @property
    def warmup(self):
        """Epochs of warm-up, float, with the default filled in."""
        return min(5.0, self.epochs / 10) if self.warmup_epochs is None else self.warmup_epochs

    def _check_whole(self, field, least, optional=False):
        value = getattr(self, field)
        if optional and value is None:
            return
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
            raise DMFormerError(f"{field} must be a whole number, {least} or more, not {value!r}.")

    def _check_number(self, field, expected, is_right, optional=False):
        value = getattr(self, field)
        if optional and value is None:
            return
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value) and is_right(value)):
            raise DMFormerError(f"{field} must be a number {expected}, not {value!r}.")
