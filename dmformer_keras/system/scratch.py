"""Temporary folders that are removed in the end, also those of killed processes."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from dmformer_keras.system.files import FolderLock


@contextlib.contextmanager
def scratch_folder(parent, prefix):
    """Gives a new folder, and removes it afterwards.

    Those of the same prefix that processes which are gone have left are removed first; where there
    are no locks (see `FolderLock`) nobody can tell, and they stay.
    """
    for left in Path(parent).glob(f"{prefix}*"):
        _remove_if_abandoned(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with FolderLock(folder) as lock:
        lock.take()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_abandoned(folder):
    """Removes a folder that no process has locked."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # no folder, or another user's
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, or a drive without locks
        pass
    finally:
        os.close(descriptor)
