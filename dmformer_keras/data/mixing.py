"""mixup and CutMix: training on mixtures of two images and of their classes."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmformer_keras.data.augment import check_field
from dmformer_keras.type_names import Pixels


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How the images of a training batch are mixed, each with one other.

    A batch is mixed in one way, by one share; where both are set, either has an even
    chance. The other of an image is the one at its place from the batch's end.

    Sources: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix); by batch, and with the
    reversed batch, as in timm.

    Args:
        mixup: float, 0 or more: the share of an image is drawn from Beta(mixup, mixup); 0
            for none.
        cutmix: float, likewise, of the area that stays an image's own.

    Raises:
        DMFormerError: a value is negative.

    Example:

    >>> images = np.stack([np.zeros((2, 2, 3)), np.full((2, 2, 3), 100)]).astype("uint8")
    >>> mixed, shares = Mixing(mixup=0.8).apply(images, [0, 1], 2, np.random.default_rng(0))
    >>> bool(np.allclose(mixed[:, 0, 0, 0], 100 * shares[:, 1], atol=1e-3))
    True
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        for field in ("mixup", "cutmix"):
            check_field(self, field, "a number, 0 or more", lambda value: 0 <= value < np.inf)

    @property
    def is_on(self) -> bool:
        """bool, whether anything is mixed."""
        return bool(self.mixup or self.cutmix)

    def apply(
        self, images: Pixels, labels: ArrayLike, num_classes: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mixes a batch.

        Args:
            images: uint8 array (batch, height, width, channels).
            labels: ints (batch,).
            num_classes: int.
            rng: `numpy.random.Generator`.

        Returns:
            float32 array as `images`, float32 array (batch, num_classes) of the share of
            each class.
        """
        images = np.asarray(images, np.float32)
        kept, own = self.draw(images.shape[1:3], rng)
        return with_reversed(images, kept), self.shares(labels, num_classes, own)

    def draw(
        self, image_size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32] | np.float32, float | np.float32]:
        """Draws how a batch is mixed.

        Args:
            image_size: (height, width), ints.
            rng: `numpy.random.Generator`.

        Returns:
            float32 array that multiplies the images, one less it the other ones: () or
            (height, width, 1); and the share of each image that is its own, float.
        """
        cuts = rng.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        if cuts:
            kept = _kept(image_size, rng.beta(self.cutmix, self.cutmix), rng)
            return kept, np.float32(kept.mean())
        own = np.float32(rng.beta(self.mixup, self.mixup) if self.mixup else 1.0)
        return own, own

    def shares(
        self, labels: ArrayLike, num_classes: int, own: float | np.float32
    ) -> NDArray[np.float32]:
        """The share of each class in each image of a mixed batch.

        Args:
            labels: ints (batch,).
            num_classes: int.
            own: float, of `draw`.

        Returns:
            float32 array (batch, num_classes).
        """
        return with_reversed(one_hot(labels, num_classes), own)


def one_hot(labels, num_classes):
    """Class numbers as float32 (number, num_classes), 1 for the class and 0 elsewhere."""
    return np.eye(num_classes, dtype=np.float32)[np.asarray(labels)]


def with_reversed(values, own):
    """Mixes each row of a batch with the row at its place from the batch's end; returns float
    array, as `values`.
    """
    return own * values + (1 - own) * values[::-1]


def _kept(image_size, own, rng):
    """1 where images stay their own and 0 in a box: float32 (height, width, 1)."""
    place = [
        np.clip(rng.integers(side) + np.array([-0.5, 0.5]) * side * np.sqrt(1 - own), 0, side)
        for side in image_size
    ]
    (top, bottom), (left, right) = np.rint(place).astype(int)
    kept = np.ones((*image_size, 1), np.float32)
    kept[top:bottom, left:right] = 0
    return kept
