"""What a model looks at, and what its attention does.

```python
from dmformer_keras import DMFormerClassifier
from dmformer_keras.data import load_image
from dmformer_keras.explain import gate_values, grad_cam, level_activations

model = DMFormerClassifier.from_preset("dmformer_t_imagenette")
image = load_image("boat.jpg", model.input.shape[1:3])
found = grad_cam(model, image)              # where the likeliest class is seen
gates = gate_values(model, image[None])     # what the gate of each block multiplies channels by
levels = level_activations(model, image[None])
```

`dmformer explain MODEL IMAGE` draws it all into one picture.
"""

from dmformer_keras.explain.attention import (
    effective_receptive_field,
    gate_values,
    level_activations,
)
from dmformer_keras.explain.class_activation import GradCam, grad_cam

__all__ = [
    "GradCam",
    "effective_receptive_field",
    "gate_values",
    "grad_cam",
    "level_activations",
]


def __dir__():
    return __all__
