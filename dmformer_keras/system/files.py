"""Files that are there whole or not at all, and folders that one process writes to."""

import contextlib
import os
from pathlib import Path

from dmformer_keras.errors import DMFormerError

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


class FolderLock:
    """Keeps other processes from writing to a folder, until this one ends or lets go of it.

    The lock is the operating system's, on the folder itself: nothing is left behind by a process
    that is killed. Where there are no such locks (Windows, some network drives), nothing is kept.

    Args:
        folder: Path.
    """

    def __init__(self, folder):
        self._folder = folder
        self._descriptor = None

    def take(self, waiting=None):
        """Takes the lock, if the folder is there; does nothing where it has it.

        Args:
            waiting: function without arguments, called where another process has it, which is
                then waited for; None raises instead.

        Raises:
            DMFormerError: another process has it.
        """
        if self._descriptor is not None or not self._folder.is_dir():
            return
        try:
            import fcntl
        except ImportError:
            return
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                os.close(descriptor)
                raise DMFormerError(
                    f"Another process is writing to {str(self._folder)!r}; wait for its end, or "
                    "choose another folder."
                ) from None
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a drive without locks
            os.close(descriptor)
            return
        self._descriptor = descriptor

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._descriptor is not None:
            os.close(self._descriptor)
