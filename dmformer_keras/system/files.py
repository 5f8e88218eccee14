"""Files that are complete or absent, and folders that one process writes to."""

import contextlib
import errno
import math
import os
import shutil
import stat
from pathlib import Path

from dmformer_keras.errors import DMFormerError, shortened

# The prefix of a file's name while it is being written.
WRITING = ".writing-"
# A file is read whole into memory. No image comes near this; a zip bomb goes beyond.
FILE_BYTES_LIMIT = 2**29
# The same for tables, lists and JSON objects.
TEXT_BYTES_LIMIT = 2**26
_FULL = (errno.ENOSPC, errno.EDQUOT)


class WriteError(DMFormerError):
    """A file could not be written; the file that it would have replaced is still there."""


@contextlib.contextmanager
def written_whole(path, needed=0):
    """Gives a path beside `path` to write to, with its suffix; renames it into place afterwards.

    If an exception ends the block, it is removed.
    """
    path = Path(path)
    beside = path.with_name(f"{WRITING}{path.name}")
    with stated_write_errors(path, needed):
        try:
            yield beside
            os.replace(beside, path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()


@contextlib.contextmanager
def stated_write_errors(path, needed=0):
    """Turns what the system has against writing a file or folder into one sentence.

    Where fewer bytes are free than needed, nothing is tried: libraries of file formats do not stand
    a disk that is full in the middle.
    """
    check_room(path, needed)
    try:
        yield
    except (OSError, RuntimeError) as error:
        # HDF5 raises a RuntimeError if it notices when it closes the file.
        number = getattr(error, "errno", None)
        full = number in _FULL or any(f"errno = {code}," in str(error) for code in _FULL)
        if isinstance(error, OSError) or full:
            reason = os.strerror(number or errno.ENOSPC) if number or full else shortened(error)
            raise _write_error(path, reason, needed, full) from error
        raise


def check_room(path, needed):
    """Checks that a disk has room for a file that is to be written."""
    if needed > _free(path):
        raise _write_error(path, "there is too little room", needed, full=True)


def stored_bytes(variables):
    """About how many bytes variables take in a file."""
    return sum(4 * math.prod(variable.shape) for variable in variables)


def _free(path):
    path = Path(path).absolute()
    with contextlib.suppress(OSError):
        return shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists())).free
    return math.inf


def _write_error(path, reason, needed, full):
    advice = "choose a path that can be written"
    if full:
        size = f"it needs about {needed / 1e6:,.1f} MB, and " if needed else ""
        advice = f"{size}{_free(path) / 1e6:,.1f} MB are free: make room, or choose another disk"
    return WriteError(f"{str(path)!r} cannot be written ({reason}); {advice}.")


def open_regular_file(path):
    """Open a regular file to read its bytes: no pipe, no device; returns a file object."""
    # Opening a pipe would wait until somebody writes to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "it is no regular file")
    return file


def read_regular_file(path, limit=FILE_BYTES_LIMIT):
    """The content of a regular file of bounded size."""
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(0, f"it has {size:,} bytes, over the limit of {limit:,}")
        return file.read(limit)


def read_regular_text(path, limit=TEXT_BYTES_LIMIT):
    """The content of a regular file of bounded size that is UTF-8."""
    return read_regular_file(path, limit).decode("utf-8")


class FolderLock:
    """Keeps other processes from writing to a folder until this one ends or releases it.

    It is a lock of the operating system on the folder itself, so a killed process leaves nothing
    behind. Where there are no such locks (Windows, some network drives), it does nothing.
    """

    def __init__(self, folder):
        self._folder = folder
        self._descriptor = None

    def take(self, waiting=None):
        """Takes the lock, if the folder is there; does nothing where it has it."""
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


def fill_once(folder, holds, fill, waiting):
    """Calls `fill()` unless the folder `holds()` its content; of several processes, one fills it.

    The others call `waiting()` and wait for it.
    """
    if holds():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder) as lock:
        # All processes of one training get here at the same time.
        lock.take(waiting)
        if not holds():
            fill()
