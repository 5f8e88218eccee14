"""What tells one training run from another: its recipe, what it starts from, its images."""

import dataclasses
import hashlib
import json

from dmformer_keras.training.teacher import MATCHES
from dmformer_keras.training.trained_images import draw_of


def identity_of(recipe, preset, train_source, val_source, draw="name"):
    """What must be the same for a run to be resumed: a dict {part: {name: JSON value}}."""
    settings = _json_values(dataclasses.asdict(recipe))
    # The results are the same with it, so a run that ran out of memory may be resumed with it.
    del settings["gradient_checkpointing"]
    return {
        "recipe": settings,
        "preset": {
            "architecture": _json_values(preset.config),
            "weights": _weights_digest(preset),
        },
        "data": {
            "training images": _fingerprint(train_source),
            "validation images": _fingerprint(val_source),
            "draw": draw,
        },
    }


def describe_differences(started, now, kind):
    """Says how a run that is to be resumed differs from what it was started as; returns a list of
    str, empty where it is the same run.
    """
    # A setting that a later version added had its default value.
    defaults = _json_values(dataclasses.asdict(kind()))
    stored = defaults | started.get("recipe", {})
    earlier = {name: stored[name] for name in now["recipe"]}
    data = {"draw": draw_of(started)} | started.get("data", {})
    started = started | {"recipe": earlier, "data": data}
    if "teacher" in started and MATCHES in now.get("teacher", {}):
        # Runs of earlier versions do not say which answer was matched with which image.
        matches = {MATCHES: now["teacher"][MATCHES]}
        started["teacher"] = matches | started["teacher"]
    pairs = [
        (name, started.get(part, {}).get(name), now.get(part, {}).get(name))
        for part in {**started, **now}
        for name in {**started.get(part, {}), **now.get(part, {})}
    ]
    return [
        f"{name} ({_brief(before)}, now {_brief(value)})"
        for name, before, value in pairs
        if before != value
    ]


def _fingerprint(source):
    """What tells other images or other labels apart, wherever the images lie."""
    digest = hashlib.sha256(json.dumps([source.class_names, source.channels]).encode())
    labels = getattr(source, "pixel_counts", source.labels)
    if labels is not None:
        digest.update(labels.tobytes())
        for index in range(len(source)):
            digest.update(source.name(index).encode("utf-8", "surrogateescape") + b"\0")
    return {"count": len(source), "sha256": digest.hexdigest()}


def _weights_digest(preset):
    """What tells the weights that a run starts from, None for random ones."""
    if not preset.has_weights:
        return None
    files = json.dumps(preset.metadata.get("files"), sort_keys=True)
    return hashlib.sha256(files.encode()).hexdigest()[:12]


def _json_values(value):
    """As they come back from JSON: tuples as lists."""
    return json.loads(json.dumps(value))


def _brief(value):
    if isinstance(value, dict):
        return f"{value['count']} images" if "count" in value else "another"
    return str(value)
