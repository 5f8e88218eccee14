"""Compares every export with Keras before its file is put into place."""

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dmformer_keras.checks import check_bool, is_finite_number
from dmformer_keras.errors import DMFormerError
from dmformer_keras.export.calibration import images_of, made_up_images
from dmformer_keras.export.comparison import compare_exported
from dmformer_keras.export.exported_model import check_runner, load_exported
from dmformer_keras.export.quiet import LOG
from dmformer_keras.system.files import stated_write_errors
from dmformer_keras.system.scratch import scratch_folder
from dmformer_keras.type_names import PathLike

# The most that an error may be of the outputs' own spread, see `compare_exported`.
# In float32 operations come in another order. Quantised, a trained model stays far below;
# what lies above has lost its outputs.
TOLERANCES = {
    None: 1e-3,
    "float32": 1e-3,
    "float16": 0.02,
    "bfloat16": 0.1,
    "dynamic": 0.15,
    "int8": 0.25,
}
_MOST_IMAGES = 16
_REPORT = ".report.json"
EXPORTING = ".exporting-"


@dataclasses.dataclass(frozen=True)
class Check:
    """What an exported file is compared with.

    Args:
        model: `keras.Model`, the reference.
        images: float32 array (count, height, width, channels).
        origin: str, where the images come from.
        tolerance: float.
        facts: dict of JSON values for the report.
    """

    model: Any
    images: np.ndarray
    origin: str
    tolerance: float
    facts: dict

    @classmethod
    def from_arguments(cls, path, prepared, verify, images, tolerance, precision, calibration=None):
        """Checks the arguments of an export about verification; None with `verify=False`."""
        check_bool("verify", verify)
        given = tolerance is not None
        if given and (not is_finite_number(tolerance) or tolerance <= 0):
            raise DMFormerError(f"tolerance must be a positive number, not {tolerance!r}.")
        if not verify:
            if given or images is not None:
                raise DMFormerError(
                    "images and tolerance are for verify=True; leave them out, or verify."
                )
            return None
        check_runner(path)
        if images is not None:
            images, origin = images_of(images, prepared, "val", "images"), "given"
        elif calibration is not None:
            chosen = np.linspace(0, len(calibration) - 1, min(_MOST_IMAGES, len(calibration)))
            images = calibration[chosen.round().astype(int)]
            origin = "representative_data"
        else:
            images, origin = made_up_images(prepared), "made up"
        tolerance = float(tolerance) if given else TOLERANCES[precision]
        facts = {"precision": precision or "float32"}
        return cls(prepared.reference, images, origin, tolerance, facts)


def checked_path(path: PathLike, suffix: str, what: str) -> Path:
    """Returns the path of a file to write, whose suffix must be right."""
    if not isinstance(path, (str, os.PathLike)):
        raise DMFormerError(f"The path of {what} must be a str or path, not {path!r}.")
    path = Path(path)
    if path.exists() and path.is_dir() != (suffix == ""):
        found = "a folder" if path.is_dir() else "a file"
        raise DMFormerError(f"{path} is {found}, where {what} was to be written; choose another.")
    if path.suffix != suffix:
        ending = f"ends in {suffix}" if suffix else "has no suffix"
        raise DMFormerError(f"The path of {what} {ending}, which {path} does not; change it.")
    return path


@contextlib.contextmanager
def written_if_right(path, check, needed=0):
    """Yields a path to export to; moves it to `path` if its outputs are the model's."""
    stack = contextlib.ExitStack()
    with stated_write_errors(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = stack.enter_context(scratch_folder(path.parent, EXPORTING))
    with stack:
        beside = folder / "new" / path.name
        beside.parent.mkdir()
        with stated_write_errors(path):
            yield beside
        report = None if check is None else json.dumps(_verify(beside, check), indent=1) + "\n"
        with stated_write_errors(path):
            if report is not None:
                report_path(beside).write_text(report)
            _move(beside.parent, path.parent, folder / "old")
            if report is None:  # an old report would be mistaken for this file's
                report_path(path).unlink(missing_ok=True)


def report_path(path: PathLike) -> Path:
    """Returns where the report of an exported file is.

    Args:
        path: str or path of the exported file.

    Returns:
        Path.

    Example:

    >>> str(report_path("phone/streets.tflite"))
    'phone/streets.tflite.report.json'
    """
    path = Path(path)
    return path.with_name(f"{path.name}{_REPORT}")


def _move(source, target, old):
    """Moves all in a folder to another; what is replaced goes to a third, with it to be deleted."""
    old.mkdir()
    # The report last, so that there is no report without its model.
    entries = sorted(source.iterdir(), key=lambda entry: (_is_report(entry), entry.name))
    parts = [entry.name for entry in entries if not _is_report(entry)]
    try:
        # One file is replaced at once. Two (.bin, .xml) are not: the one that is opened goes first
        # and comes last, so that it is never beside another's weights.
        for name in reversed(parts):
            if (target / name).is_dir() or (len(parts) > 1 and (target / name).exists()):
                os.replace(target / name, old / name)
        for entry in entries:
            os.replace(entry, target / entry.name)
    except BaseException:  # Ctrl-C, too
        for kept in sorted(old.iterdir()):
            os.replace(kept, target / kept.name)
        raise


def _is_report(path):
    return path.name.endswith(_REPORT)


def _verify(path, check):
    """Returns the report of a file; raises if its outputs are not the model's."""
    LOG.info("Measuring latency and memory")
    # First, in a process of its own: a file that a runtime cannot run may end the process.
    figures = measured(path, check.images.shape[1:])
    LOG.info("Comparing it with Keras on %d images (%s)", len(check.images), check.origin)
    exported = load_exported(path)
    compared = compare_exported(check.model, exported, check.images)
    if not compared["relative_error"] <= check.tolerance:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in compared.items())
        raise DMFormerError(
            f"The exported {exported.format} file differs from {check.model.name!r} by more than "
            f"the tolerance {check.tolerance:g} (of relative_error, on {len(check.images)} "
            f"{check.origin} images): {figures}; it was not kept."
        )
    return {
        "file": path.name,
        "format": exported.format,
        **check.facts,
        "bytes": size_of(path),
        "input_shape": list(exported.input.shape),
        "output_shape": list(exported.output.shape),
        "compared": {
            "images": len(check.images),
            "origin": check.origin,
            "tolerance": check.tolerance,
            **compared,
        },
        "operators": exported.operators(),
        **figures,
    }


def size_of(path):
    """Returns the bytes of an exported file, of all its parts."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(part.stat().st_size for part in parts)


def measured(path, shape):
    """Measures latency and memory of an exported file, in a process of its own; returns a dict:
    `latency_ms`, {threads: median milliseconds of a batch}; `peak_memory_bytes` beyond the
    runtime's libraries; `machine` and `keras`, what it was measured with.
    """
    request = json.dumps({"path": str(path), "shape": [int(side) for side in shape]})
    finished = subprocess.run(
        [sys.executable, "-m", "dmformer_keras.export.latency", request],
        env={
            **os.environ,
            "KERAS_BACKEND": keras.config.backend(),  # the backend that is certainly installed
            "CUDA_VISIBLE_DEVICES": "-1",
        },
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise DMFormerError(
            f"{path.name} was converted, but cannot be run here ({last[:300]}); export with "
            "verify=False to run it elsewhere."
        )
    return {
        **json.loads(finished.stdout.strip().splitlines()[-1]),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "keras": keras.__version__,
    }
