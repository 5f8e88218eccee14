"""Describes the machine and the libraries of a measurement."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_LIBRARIES = (
    "dmformer-keras", "keras", "keras-hub", "tensorflow", "jax", "jaxlib", "torch", "timm",
    "torchvision", "onnx", "onnxruntime", "onnxscript", "openvino", "ai-edge-litert", "numpy",
)  # fmt: skip


def describe_machine(threads):
    """Describes this machine; returns a dict of str and int, with the versions of the libraries
    that are installed.
    """
    versions = {}
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return {
        "cpu": _from_file("/proc/cpuinfo", "model name") or platform.processor(),
        "gpu": _gpu(),
        "processors": os.cpu_count(),
        "threads": threads,
        "memory": _from_file("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": versions,
    }


def machine_sentence(machine):
    """Says in a sentence what `describe_machine` found out."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    used = f"{machine['threads']} of " if machine["threads"] else ""
    parts = [machine["gpu"], machine["cpu"], f"{used}{machine['processors']} processors",
             machine["memory"], machine["system"], f"Python {machine['python']}"]  # fmt: skip
    return f"{', '.join(part for part in parts if part)}; {versions}."


def cpu_flags():
    """The names of the instruction sets that the processor has; none where no file lists them."""
    return frozenset((_from_file("/proc/cpuinfo", "flags") or "").split())


def _from_file(path, key):
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return None


def _gpu():
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        return found.stdout.strip() or None
    return None
