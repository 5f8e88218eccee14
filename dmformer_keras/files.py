"""Files that are there whole or not at all."""

import contextlib
import os
from pathlib import Path

# How the name of a file begins while it is written.
WRITING = ".writing-"


@contextlib.contextmanager
def written_whole(path):
    """Gives a path beside `path` to write to, and renames it into place afterwards.

    Args:
        path: str or path of the file.

    Yields:
        Path, of the same suffix; removed if an exception ends the block.
    """
    path = Path(path)
    beside = path.with_name(f"{WRITING}{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
