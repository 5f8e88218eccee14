"""From images to answers: classes and their probabilities, or a class for each pixel.

```python
import dmformer_keras

model = dmformer_keras.load("dmformer_t_imagenette")
dmformer_keras.classify(model, "photo.jpg")         # [("church", 0.93), ...]

model = dmformer_keras.load("runs/streets")
mask = dmformer_keras.segment(model, "street.jpg")  # uint8 (height, width), class indexes
```
"""

from dmformer_keras.inference.answers import classify, segment
from dmformer_keras.inference.windows import (
    DEFAULT_WINDOW,
    STRIDE,
    WHOLE_IMAGE_PIXELS,
    segment_image,
    segment_probabilities,
)

__all__ = [
    "DEFAULT_WINDOW",
    "STRIDE",
    "WHOLE_IMAGE_PIXELS",
    "classify",
    "segment",
    "segment_image",
    "segment_probabilities",
]


def __dir__():
    return __all__
