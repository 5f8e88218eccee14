"""mixup and CutMix: training on mixtures of two images and of their classes."""

import dataclasses

import numpy as np

from dmformer_keras.data.augment import check_field


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
    def is_on(self):
        """bool, whether anything is mixed."""
        return bool(self.mixup or self.cutmix)

    def apply(self, images, labels, num_classes, rng):
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
        shares = np.eye(num_classes, dtype=np.float32)[np.asarray(labels)]
        cuts = rng.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        if cuts:
            images, own = _cut(images, rng.beta(self.cutmix, self.cutmix), rng)
        elif self.mixup:
            own = np.float32(rng.beta(self.mixup, self.mixup))
            images = own * images + (1 - own) * images[::-1]
        else:
            return images, shares
        return images, own * shares + (1 - own) * shares[::-1]


def _cut(images, own, rng):
    """Puts one box of the others' pixels into images; returns them and the share left."""
    height, width = images.shape[1:3]
    place = [
        np.clip(rng.integers(side) + np.array([-0.5, 0.5]) * side * np.sqrt(1 - own), 0, side)
        for side in (height, width)
    ]
    (top, bottom), (left, right) = np.rint(place).astype(int)
    mixed = images.copy()
    mixed[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    return mixed, np.float32(1 - (bottom - top) * (right - left) / (height * width))
