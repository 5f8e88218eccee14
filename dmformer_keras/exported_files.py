"""Files of other runtimes: what they are called, and how a path is recognized as one."""

from pathlib import Path

from dmformer_keras.presets.download import is_address
from dmformer_keras.type_names import PathLike

# What `dmformer_keras.export.to_...` writes, by the end of its name.
SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml", "saved_model": ""}


def is_exported(path: PathLike) -> bool:
    """Tells whether a path looks like that of an exported file.

    Args:
        path: str or path.

    Returns:
        bool.

    Example:

    >>> is_exported("streets.onnx"), is_exported("streets.keras")
    (True, False)
    """
    if is_address(str(path)):
        return False
    path = Path(path)
    suffixes = filter(None, SUFFIXES.values())
    return path.suffix in suffixes or (path / "saved_model.pb").is_file()
