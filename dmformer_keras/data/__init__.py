"""Labelled images, from wherever they lie to the batches a model trains on.

```python
from dmformer_keras.data import Augmentation, open_source, steps_per_epoch, to_tf_dataset

train = open_source("flowers.zip", split="train")   # or a folder, arrays, "tfds:...", "digits"
val = open_source("flowers.zip", split="val")
batches = to_tf_dataset(
    train, 160, 32, training=True, augmentation=Augmentation.named("standard"), seed=0
)
model.fit(batches, steps_per_epoch=steps_per_epoch(train, 32), epochs=20, shuffle=False,
          validation_data=to_tf_dataset(val, 160, 32))
```

Images with masks go the same way:

```python
from dmformer_keras.data import JointAugmentation

train = open_source("streets.zip", split="train", task="segment")   # train/images, train/masks
batches = to_tf_dataset(
    train, (360, 480), 8, training=True, augmentation=JointAugmentation.named("standard"), seed=0
)
```

`to_py_dataset` gives the same batches, bit for bit, without TensorFlow. Images are read,
turned upright and resized in one way for training, evaluation and prediction: see
`decode_image`, `load_image` and `resize_image`.
"""

from dmformer_keras.data.augment import Augmentation
from dmformer_keras.data.cache import cached
from dmformer_keras.data.image_source import ImageSource
from dmformer_keras.data.images import decode_image, load_image, resize_image
from dmformer_keras.data.joint_augment import JointAugmentation
from dmformer_keras.data.masks import IGNORED_LABEL
from dmformer_keras.data.mixing import Mixing
from dmformer_keras.data.pipelines import to_py_dataset, to_tf_dataset
from dmformer_keras.data.plan import load_example, steps_per_epoch
from dmformer_keras.data.segmentation_source import SegmentationSource, count_pixels
from dmformer_keras.data.sources import open_source

__all__ = [
    "IGNORED_LABEL",
    "Augmentation",
    "ImageSource",
    "JointAugmentation",
    "Mixing",
    "SegmentationSource",
    "cached",
    "count_pixels",
    "decode_image",
    "load_example",
    "load_image",
    "open_source",
    "resize_image",
    "steps_per_epoch",
    "to_py_dataset",
    "to_tf_dataset",
]


def __dir__():
    return __all__
