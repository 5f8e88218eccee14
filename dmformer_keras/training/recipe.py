"""Training recipes as data: every number that a run depends on, checked at once."""

import dataclasses
import itertools
import math
import numbers
from typing import TYPE_CHECKING, ClassVar, Self

from dmformer_keras.architectures import MINIMUM_SIZE
from dmformer_keras.checks import check_stages
from dmformer_keras.data import Augmentation, JointAugmentation, Mixing
from dmformer_keras.errors import DMFormerError
from dmformer_keras.task_table import head_names

if TYPE_CHECKING:
    from dmformer_keras.presets import Preset

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
AUGMENTATIONS = ("none", "light", "standard", "degraded", "imagenet")
JOINT_AUGMENTATIONS = ("none", "light", "standard", "ade20k")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "polynomial")
# A teacher's image size: that of the training images.
STUDENT_SIZE = "student"
# Training images below which the features of a preset need care.
FEW_IMAGES = 1000
CLASS_WEIGHTINGS = ("none", "median_frequency", "log_frequency")

_COMMON_ARGUMENTS = """epochs: int, positive, passes over the training images.
        images_per_epoch: int, positive, of which an epoch is made, None for one pass: a part
            of a pass gives more checkpoints where a pass takes an hour. Every image is shown
            once before any is shown again.
        batch_size: int, positive.
        image_size: int, at least 32, height and width in pixels{image_size}.
        progressive_resizing: (image size, epochs) of the first epochs, smaller images for less
            time, such as ((64, 20), (96, 10)), growing; the epochs after them, if any, have
            `image_size`. Validation looks at `image_size` throughout, which may be larger than in
            the last epochs: random crops show things larger than whole images do (Touvron et al.
            2019).
        channels: int, channels of the images; None means 3 for image files, and the
            arrays' own.
        optimizer: "adamw", or "muon" for the convolutions of the backbone's stages (not its
            depthwise ones) and AdamW for the rest; it wants a higher learning rate.
        learning_rate: float, positive, the peak that the warm-up reaches.
        base_batch_size: int, positive, the images per update for which `learning_rate` is
            meant: with more or fewer it is scaled in proportion. None scales nothing.
        accumulate: int, positive, batches whose gradients are averaged for one update: as if
            the batch were so much larger, but for the statistics of norms.
        warmup_epochs: float, from 0 to `epochs`; None means a tenth of `epochs`, at most 5.
        weight_decay: float, 0 or more, for kernels only: not for biases, norms or LayerScale.
        layer_decay: float in (0, 1], what the learning rate is multiplied by for each layer
            further from the head: a block, or the stem; 1 trains all alike. See
            `dmformer_keras.training.layer_depths`.
        augmentation: {augmentation}.
        stochastic_depth: float in [0, 1), or None for the preset's own.
        dropout: float in [0, 1), before the last layer, or None for {dropout}.
        clip_norm: float, positive, the norm that all gradients together are clipped to,
            or None.
        ema: float in (0, 1), the momentum of a moving average of the weights, such as 0.999:
            validation looks at the average, and it is what is kept. It begins lower, at
            `(1 + t) / (10 + t)` after `t` updates. None for no average.
        freeze_backbone: bool, train the head only.
        gradient_checkpointing: stages to compute again in the backward pass, such as (1, 2),
            True for all, False for none, see `DMFormerBackbone`: less memory, more time, the
            same results.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        class_weighting: what gives rare classes more weight in the loss, by each class's share
            of the training images or, of a segmentation, of their pixels: "none";
            "median_frequency", the median of the shares over the class's own (after Eigen and
            Fergus 2015, who count only the images in which a class occurs; here all pixels
            count); or "log_frequency", `1 / ln(1.02 + share)` (Paszke et al. 2016, ENet).
        teacher_weight: float from 0 to 1, the teacher's share of the loss, for images or pixels
            whose class it knows; without a teacher (`train(teacher=...)`) it has no effect.
        temperature: float, positive, that the teacher's and the student's logits are divided by.
        teacher_image_size: int, at least 32, height and width in pixels that a teacher sees;
            "student" for those of the training images; None for its own, or those of the training
            images where it has none.
        validate_every: int, positive, epochs from one look at the validation images to the
            next; the last epoch always has one. Only such an epoch can be the best.
        seed: int, 0 or more: initial weights, order and changes of the images, dropout."""


@dataclasses.dataclass(frozen=True)
class _CommonRecipe:
    """What every task's recipe says, and the checks of it."""

    augmentations: ClassVar = AUGMENTATIONS

    # Fields that came later are keyword-only, so that the older ones keep their positions.
    epochs: int = 30
    images_per_epoch: int | None = dataclasses.field(default=None, kw_only=True)
    batch_size: int = 64
    image_size: int | None = None
    progressive_resizing: tuple[tuple[int, int], ...] = ()
    channels: int | None = None
    optimizer: str = dataclasses.field(default="adamw", kw_only=True)
    learning_rate: float = 1e-3
    base_batch_size: int | None = None
    accumulate: int = 1
    warmup_epochs: float | None = None
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    augmentation: str = "standard"
    stochastic_depth: float | None = None
    dropout: float | None = None
    clip_norm: float | None = None
    ema: float | None = None
    freeze_backbone: bool = False
    gradient_checkpointing: bool | tuple[int, ...] = False
    precision: str = "float32"
    class_weighting: str = "none"
    teacher_weight: float = dataclasses.field(default=0.5, kw_only=True)
    temperature: float = dataclasses.field(default=2.0, kw_only=True)
    teacher_image_size: int | str | None = dataclasses.field(default=None, kw_only=True)
    validate_every: int = 1
    seed: int = 0

    def __post_init__(self):
        self._check_whole("epochs", 1)
        self._check_whole("images_per_epoch", 1, optional=True)
        self._check_whole("batch_size", 1)
        self._check_whole("base_batch_size", 1, optional=True)
        self._check_whole("accumulate", 1)
        self._check_whole("validate_every", 1)
        self._check_whole("image_size", MINIMUM_SIZE, optional=True)
        self._check_whole("channels", 1, optional=True)
        self._check_whole("seed", 0)
        if self.seed >= 2**32:
            raise DMFormerError(f"seed must be below 2**32, not {self.seed}.")
        self._check_number("learning_rate", "over 0", lambda value: value > 0)
        self._check_number("weight_decay", "0 or more", lambda value: value >= 0)
        self._check_number("layer_decay", "over 0 and at most 1", lambda value: 0 < value <= 1)
        self._check_number("clip_norm", "over 0", lambda value: value > 0, optional=True)
        self._check_number("ema", "over 0 and below 1", lambda value: 0 < value < 1, optional=True)
        self._check_number(
            "warmup_epochs",
            f"from 0 to the number of epochs, {self.epochs}",
            lambda value: 0 <= value <= self.epochs,
            optional=True,
        )
        for field in ("stochastic_depth", "dropout"):
            self._check_share(field, optional=True)
        self._check_number("teacher_weight", "from 0 to 1", lambda value: 0 <= value <= 1)
        self._check_number("temperature", "over 0", lambda value: value > 0)
        if self.teacher_image_size != STUDENT_SIZE:
            self._check_whole("teacher_image_size", MINIMUM_SIZE, optional=True)
        self._check_progressive_resizing()
        check_stages("gradient_checkpointing", self.gradient_checkpointing)
        self._check_choice("augmentation", self.augmentations)
        self._check_choice("precision", PRECISIONS)
        self._check_choice("optimizer", OPTIMIZERS)
        self._check_flag("freeze_backbone")
        if self.optimizer == "muon" and self.freeze_backbone:
            raise DMFormerError(
                "The optimizer muon trains the backbone's convolutions, and freeze_backbone trains "
                "the head only; leave out one of them."
            )
        self._check_choice("class_weighting", CLASS_WEIGHTINGS)

    @property
    def warmup(self) -> float:
        """Epochs of warm-up, float, with the default filled in."""
        return min(5.0, self.epochs / 10) if self.warmup_epochs is None else self.warmup_epochs

    @property
    def peak_learning_rate(self) -> float:
        """float, `learning_rate` for this recipe's images per update."""
        if self.base_batch_size is None:
            return self.learning_rate
        return self.learning_rate * self.batch_size * self.accumulate / self.base_batch_size

    def phases(self, image_size: tuple[int, int]) -> list[tuple[int, int, tuple[int, int]]]:
        """The epochs of each image size, see `progressive_resizing`.

        Args:
            image_size: (height, width), ints, of the last epochs.

        Returns:
            list of (first epoch, counted from 0; the epoch after the last; (height, width)).

        Raises:
            DMFormerError: images of the first epochs are not smaller.

        Example:

        >>> Recipe(epochs=30, progressive_resizing=((64, 20),)).phases((128, 128))
        [(0, 20, (64, 64)), (20, 30, (128, 128))]
        """
        phases, first = [], 0
        _check_growing([*(size for size, _ in self.progressive_resizing), max(image_size)])
        for size, epochs in self.progressive_resizing:
            phases.append((first, first + epochs, (size, size)))
            first += epochs
        if first < self.epochs:
            height, width = image_size
            phases.append((first, self.epochs, (height, width)))
        return phases

    @classmethod
    def named(cls, name: str) -> Self:
        """A recipe by its name, as `dmformer_keras.training.recipes` has them.

        Args:
            name: str, such as "imagenet".

        Returns:
            Recipe or SegmentationRecipe, as the class it is asked of.

        Raises:
            DMFormerError: there is no such recipe for this task.

        Example:

        >>> Recipe.named("imagenet").epochs, SegmentationRecipe.named("ade20k_upernet").power
        (300, 1.0)
        """
        from dmformer_keras.training import recipes

        return recipes.find(name, cls)

    def check_preset(self, preset: "Preset") -> None:
        """Checks that a preset has the weights that this recipe begins with.

        Args:
            preset: Preset.

        Raises:
            DMFormerError: it has none.
        """
        for is_set, name, what in (
            (self.probe, "probe", "a probe would measure"),  # type: ignore[attr-defined]
            (self.freeze_backbone, "freeze_backbone", "a frozen backbone would keep"),
        ):
            if is_set and not preset.has_weights:
                raise DMFormerError(
                    f"Preset {preset.name!r} has no weights, and {what} random ones; leave out "
                    f"{name}, or choose a preset with weights."
                )

    def tip(self, preset: "Preset", images: int) -> str:
        """What to say of another recipe that suits the data better.

        Args:
            preset: Preset.
            images: int, the training images.

        Returns:
            str, a sentence; "" where there is nothing to say.
        """
        if not isinstance(self, Recipe):
            return ""
        suits = self.probe or self.freeze_backbone or self.layer_decay < 1
        if suits or not preset.has_weights or images >= FEW_IMAGES:
            return ""
        return (
            f"{images:,} training images are few: the recipe few_images (--recipe few_images) "
            "begins with a linear probe, then trains all at lower rates."
        )

    def _check_progressive_resizing(self):
        given = self.progressive_resizing
        try:
            steps = tuple((size, epochs) for size, epochs in given)
        except (TypeError, ValueError):
            steps = ((None, None),)
        if not all(_is_whole(size, MINIMUM_SIZE) and _is_whole(one, 1) for size, one in steps):
            raise DMFormerError(
                "progressive_resizing must be pairs of an image size in pixels, at least "
                f"{MINIMUM_SIZE}, and its epochs, at least 1, not {given!r}."
            )
        smaller = sum(epochs for _, epochs in steps)
        if smaller > self.epochs:
            raise DMFormerError(
                f"progressive_resizing takes {smaller} epochs, and there are {self.epochs}; train "
                "for more epochs, or shorten it."
            )
        # From JSON they come as lists.
        object.__setattr__(self, "progressive_resizing", steps)

    def _check_whole(self, field, least, optional=False):
        value = getattr(self, field)
        if optional and value is None:
            return
        if not _is_whole(value, least):
            raise DMFormerError(f"{field} must be a whole number, {least} or more, not {value!r}.")

    def _check_share(self, field, optional=False):
        self._check_number(field, "from 0 to below 1", lambda value: 0 <= value < 1, optional)

    def _check_number(self, field, expected, is_right, optional=False):
        value = getattr(self, field)
        if optional and value is None:
            return
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value) and is_right(value)):
            raise DMFormerError(f"{field} must be a number {expected}, not {value!r}.")

    def _check_flag(self, field):
        value = getattr(self, field)
        if not isinstance(value, bool):
            raise DMFormerError(f"{field} must be True or False, not {value!r}.")

    def _check_choice(self, field, choices):
        value = getattr(self, field)
        if value not in choices:
            raise DMFormerError(
                f"{field} must be one of {', '.join(map(str, choices))}, not {value!r}."
            )


def _check_growing(sizes):
    if any(size >= following for size, following in itertools.pairwise(sizes)):
        raise DMFormerError(
            "progressive_resizing must be of images that grow up to image_size, not "
            f"{', '.join(map(str, sizes))} pixels; leave it out (--progressive-resizing and "
            "nothing after it), or give growing sizes."
        )


def _is_whole(value, least):
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_whole and value >= least


def _with_arguments(**texts):
    def decorate(cls):
        cls.__doc__ = cls.__doc__.replace("{common}", _COMMON_ARGUMENTS.format(**texts))
        return cls

    return decorate


@_with_arguments(
    image_size="; None takes the preset's\n            own, or 224",
    augmentation='"none", "light", "standard", "degraded" or "imagenet",\n            see '
    "`dmformer_keras.data.Augmentation`",
    dropout="the preset's own",
)
@dataclasses.dataclass(frozen=True)
class Recipe(_CommonRecipe):
    """How a classifier is trained: AdamW or Muon, a linear warm-up, then a cosine decay to zero.

    Args:
        {common}
        label_smoothing: float in [0, 1), the share of the target that all classes share.
        mixup, cutmix: floats, 0 or more, see `dmformer_keras.data.Mixing`; 0 for none.
        feature_weight: float, 0 or more, of the squared error of a teacher's stored features.
        probe: bool, begin with the best linear head for the features of the preset's backbone, and
            print its accuracy, see `dmformer_keras.training.solve_head`; with
            `images_per_epoch`, for so many images.
        augment_on_device: bool, hold the decoded images in memory, and change and mix them where
            the model is trained: for fast GPUs with JAX or PyTorch, on one of them.

    Raises:
        DMFormerError: a value is outside its range.

    Example:

    >>> recipe = Recipe(epochs=20, learning_rate=5e-4)
    >>> recipe.warmup
    2.0
    >>> dataclasses.replace(recipe, epochs=100).warmup
    5.0
    """

    # What a segmenter's recipe may choose.
    schedule: ClassVar = "cosine"
    lovasz: ClassVar = 0.0

    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    feature_weight: float = dataclasses.field(default=1.0, kw_only=True)
    probe: bool = dataclasses.field(default=False, kw_only=True)
    augment_on_device: bool = False

    def __post_init__(self):
        super().__post_init__()
        self._check_flag("probe")
        self._check_flag("augment_on_device")
        if self.augment_on_device and self.changes.degradation is not None:
            raise DMFormerError(
                f"augmentation {self.augmentation!r} compresses images, which is done on the CPU "
                "only; leave out augment_on_device, or choose another augmentation."
            )
        self._check_share("label_smoothing")
        for field in ("mixup", "cutmix", "feature_weight"):
            self._check_number(field, "0 or more", lambda value: value >= 0)

    @property
    def changes(self) -> Augmentation:
        """The `Augmentation` of that name."""
        return Augmentation.named(self.augmentation)

    @property
    def mixing(self) -> Mixing | None:
        """The `Mixing` of the batches, or None."""
        mixing = Mixing(self.mixup, self.cutmix)
        return mixing if mixing.is_on else None


@_with_arguments(
    image_size=" of the\n            training crops; validation images keep their own size",
    augmentation='"none", "light", "standard" or "ade20k", see\n            '
    "`dmformer_keras.data.JointAugmentation`",
    dropout="the head's own",
)
@dataclasses.dataclass(frozen=True)
class SegmentationRecipe(_CommonRecipe):
    """How a segmenter is trained: AdamW or Muon, a linear warm-up, then a decay to zero.

    Args:
        {common}
        head: "semantic_fpn" or "upernet", see `SemanticFPN` and `UPerNet`.
        head_channels: int, width of the head; None for the head's own.
        normalization: "batch" or "group", of the head; None for the preset's, and "batch"
            for a new head.
        schedule: "polynomial" or "cosine", the decay.
        power: float, positive, of the polynomial decay; 1 is linear.
        dice: float, 0 or more, the weight of the soft Dice loss beside the cross-entropy's 1.
        lovasz: float, 0 or more, likewise of the Lovász-softmax loss.

    Raises:
        DMFormerError: a value is outside its range.

    Example:

    >>> recipe = SegmentationRecipe(epochs=20, image_size=128)
    >>> recipe.head, recipe.schedule
    ('semantic_fpn', 'polynomial')
    """

    augmentations: ClassVar = JOINT_AUGMENTATIONS
    augment_on_device: ClassVar = False
    probe: ClassVar = False

    batch_size: int = 16
    image_size: int = 256
    weight_decay: float = 0.01
    head: str = "semantic_fpn"
    head_channels: int | None = None
    normalization: str | None = None
    schedule: str = "polynomial"
    power: float = 0.9
    dice: float = 0.0
    lovasz: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self._check_whole("image_size", MINIMUM_SIZE)
        self._check_choice("head", head_names())
        self._check_whole("head_channels", 1, optional=True)
        self._check_choice("normalization", (None, "batch", "group"))
        self._check_choice("schedule", SCHEDULES)
        self._check_number("power", "over 0", lambda value: value > 0)
        for field in ("dice", "lovasz"):
            self._check_number(field, "0 or more", lambda value: value >= 0)

    @property
    def changes(self) -> JointAugmentation:
        """The `JointAugmentation` of that name."""
        return JointAugmentation.named(self.augmentation)

    @property
    def mixing(self) -> None:
        """None: masks are not mixed."""
        return None
