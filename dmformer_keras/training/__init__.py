"""Training and evaluating models: recipes as data, runs that can be interrupted.

```python
from dmformer_keras.training import Recipe, evaluate, load_classifier, train

train(Recipe(epochs=20, image_size=96), "dmformer_n", "flowers.zip", output="runs/flowers")
model = load_classifier("runs/flowers")
```
"""

import sys
from typing import TYPE_CHECKING

from dmformer_keras.lazy import imported_when_used

if TYPE_CHECKING:
    from dmformer_keras.inference.model_outputs import image_size_of, is_segmenter, to_probabilities
    from dmformer_keras.loading import load_classifier, load_trained
    from dmformer_keras.training import recipes
    from dmformer_keras.training.averaging import average_weights
    from dmformer_keras.training.depths import layer_depths
    from dmformer_keras.training.engine import train
    from dmformer_keras.training.evaluation import Evaluation, evaluate
    from dmformer_keras.training.grouped_updates import (
        ParameterGroup,
        parameter_groups,
        with_parameter_groups,
    )
    from dmformer_keras.training.live_teacher import Teacher
    from dmformer_keras.training.losses import PixelAccuracy, SegmentationLoss
    from dmformer_keras.training.packaging import package
    from dmformer_keras.training.probing import solve_head
    from dmformer_keras.training.recipe import Recipe, SegmentationRecipe
    from dmformer_keras.training.segmentation_evaluation import (
        SegmentationEvaluation,
        count_confusion,
        evaluate_segmenter,
    )
    from dmformer_keras.training.teacher import TeacherAnswers

__all__ = [
    "Evaluation",
    "ParameterGroup",
    "PixelAccuracy",
    "Recipe",
    "SegmentationEvaluation",
    "SegmentationLoss",
    "SegmentationRecipe",
    "Teacher",
    "TeacherAnswers",
    "average_weights",
    "count_confusion",
    "evaluate",
    "evaluate_segmenter",
    "image_size_of",
    "is_segmenter",
    "layer_depths",
    "load_classifier",
    "load_trained",
    "package",
    "parameter_groups",
    "recipes",
    "solve_head",
    "to_probabilities",
    "train",
    "with_parameter_groups",
]


if not TYPE_CHECKING:  # for type checkers every name would exist
    __getattr__ = imported_when_used(
        __name__,
        {
            "dmformer_keras.inference.model_outputs": (
                "image_size_of",
                "is_segmenter",
                "to_probabilities",
            ),
            "dmformer_keras.loading": (
                "load_classifier",
                "load_trained",
            ),
            "dmformer_keras.training.averaging": ("average_weights",),
            "dmformer_keras.training.engine": ("train",),
            "dmformer_keras.training.evaluation": (
                "Evaluation",
                "evaluate",
            ),
            "dmformer_keras.training.depths": ("layer_depths",),
            "dmformer_keras.training.live_teacher": ("Teacher",),
            "dmformer_keras.training.losses": (
                "PixelAccuracy",
                "SegmentationLoss",
            ),
            "dmformer_keras.training.packaging": ("package",),
            "dmformer_keras.training.grouped_updates": (
                "ParameterGroup",
                "parameter_groups",
                "with_parameter_groups",
            ),
            "dmformer_keras.training.probing": ("solve_head",),
            "dmformer_keras.training.recipe": (
                "Recipe",
                "SegmentationRecipe",
            ),
            "dmformer_keras.training.segmentation_evaluation": (
                "SegmentationEvaluation",
                "count_confusion",
                "evaluate_segmenter",
            ),
            "dmformer_keras.training.teacher": ("TeacherAnswers",),
        },
    )


if "keras" in sys.modules:  # what `keras.saving.load_model` asks for is registered at once
    from dmformer_keras.training import losses, optimization, teacher  # noqa: F401


def __dir__():
    return __all__
