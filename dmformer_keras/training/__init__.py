"""Training and evaluating classifiers: recipes as data, runs that can be interrupted.

```python
from dmformer_keras.training import Recipe, evaluate, load_classifier, train

train(Recipe(epochs=20, image_size=96), "dmformer_n", "flowers.zip", output="runs/flowers")
model = load_classifier("runs/flowers")
```
"""

from dmformer_keras.training.engine import train
from dmformer_keras.training.evaluation import Evaluation, evaluate, to_probabilities
from dmformer_keras.training.recipe import Recipe
from dmformer_keras.training.saved_models import image_size_of, load_classifier

__all__ = [
    "Evaluation",
    "Recipe",
    "evaluate",
    "image_size_of",
    "load_classifier",
    "to_probabilities",
    "train",
]
