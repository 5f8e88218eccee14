"""The table of tasks: one row for each class of model with a head.

A class gets its row by a decorator, also from outside the package:

```python
@keras.saving.register_keras_serializable(package="my_package")
@register_task("segment", recipe_name="my_head")
class MyHead(Segmenter):
    ...
```

From then on `SegmentationRecipe(head="my_head")` trains it, and presets, `dmformer_keras.load`,
`fuse`, exports and KerasHub's `DMFormerImageSegmenter` know it by the name of its class.
"""

from typing import NamedTuple

from dmformer_keras.errors import DMFormerError

# Of each kind of task: the KerasHub class that reads its presets, and the Hub's pipeline tag.
_KINDS = {
    "classify": ("dmformer_keras>KerasHubDMFormerImageClassifier", "image-classification"),
    "segment": ("dmformer_keras>KerasHubDMFormerImageSegmenter", "image-segmentation"),
}


class Task(NamedTuple):
    """A row of the table."""

    cls: type
    kind: str
    recipe_name: str | None
    keras_hub_class: str
    pipeline_tag: str


# {name of the class: row}
TASKS: dict[str, Task] = {}
# {name in recipes and of `--head`: class}, of the tasks that segment.
SEGMENTATION_HEADS: dict[str, type] = {}
# What this package registers there, for who asks before its models are imported.
OWN_HEADS = ("semantic_fpn", "upernet")
OWN_KINDS = {"DMFormerClassifier": "classify", "SemanticFPN": "segment", "UPerNet": "segment"}


def register_task(kind, recipe_name=None):
    """Gives a class of model with a head its row in the table.

    Args:
        kind: "classify" or "segment".
        recipe_name: str, what `SegmentationRecipe.head` and `--head` call a segmentation head,
            or `None` where recipes do not choose it.

    Returns:
        A decorator that returns the class as it is.

    Raises:
        DMFormerError: there is no such kind, or another class has one of the names.
    """
    if kind not in _KINDS:
        raise DMFormerError(f"kind must be one of {', '.join(_KINDS)}, not {kind!r}.")

    def register(cls):
        # Defined anew, as in a notebook, a class takes its own row.
        taken = TASKS.get(cls.__name__)
        if taken is not None and taken.cls.__module__ != cls.__module__:
            raise DMFormerError(
                f"There is a task {cls.__name__!r} already, of {taken.cls.__module__}; give the "
                "class another name."
            )
        owner = SEGMENTATION_HEADS.get(recipe_name)
        if owner is not None and owner.__name__ != cls.__name__:
            raise DMFormerError(
                f"recipe_name {recipe_name!r} is that of {owner.__name__}; choose another."
            )
        TASKS[cls.__name__] = Task(cls, kind, recipe_name, *_KINDS[kind])
        if recipe_name is not None:
            SEGMENTATION_HEADS[recipe_name] = cls
        return cls

    return register


def head_names():
    """Returns what recipes and `--head` may call a segmentation head, as a tuple of str."""
    return tuple(dict.fromkeys((*OWN_HEADS, *SEGMENTATION_HEADS)))


def task_of_class(cls):
    """Returns the row of a class, or `None` where it has none of its own."""
    row = TASKS.get(cls.__name__)
    return row if row is not None and row.cls is cls else None


def class_of_stored_task(stored):
    """Returns the class that the description of a task, a preset's task.json, is of: a type, or
    `None` where no known class has written it.

    Only classes that have been defined and registered are found: nothing is imported.
    """
    import keras  # not above: the table is read before Keras is started, too

    name, registered_name = stored.get("class_name"), stored.get("registered_name")
    row = TASKS.get(name)
    if row is not None and registered_name in (
        None,
        row.keras_hub_class,
        keras.saving.get_registered_name(row.cls),
    ):
        return row.cls
    found = keras.saving.get_registered_object(registered_name) if registered_name else None
    return found if isinstance(found, type) and found.__name__ == name else None
