"""What cannot be written: one sentence, and what was there before stays."""

import errno
import os
import shutil
import subprocess
import threading
from types import SimpleNamespace

import pytest

from dmformer_keras import DMFormerN
from dmformer_keras.system.files import WriteError, fill_once, stated_write_errors, written_whole

pytestmark = pytest.mark.backend_independent

OF_HDF5 = "Can't decrement id ref count (file write failed: errno = 28, error message = ...)"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space"), r"\(No space left on device\); [\d.,]+ MB are free"),
        (OSError(errno.EDQUOT, "x"), r"\(Disk quota exceeded\); .*: make room, or choose"),
        (RuntimeError(OF_HDF5), r"\(No space left on device\)"),
        (PermissionError(errno.EACCES, "x"), r"\(Permission denied\); choose a path"),
        (OSError(errno.EROFS, "x"), r"\(Read-only file system\)"),
        (OSError("something\nelse"), r"\(something else\)"),
    ],
)
def test_what_the_system_says_is_one_sentence(tmp_path, error, said):
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def write():
        with written_whole(path) as beside:
            beside.write_text("ne")
            raise error

    with pytest.raises(WriteError, match=rf"kept.txt' cannot be written {said}"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_other_errors_are_let_through(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), written_whole(tmp_path / "a"):
        raise RuntimeError("mine")


def test_nothing_is_begun_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_500_000))
    with stated_write_errors(tmp_path / "new" / "folder", 2_000_000):
        pass
    never = stated_write_errors(tmp_path / "new" / "folder", 3_000_000)
    with pytest.raises(WriteError, match=r"needs about 3\.0 MB, and 2\.5 MB are free"):
        never.__enter__()
    assert not os.listdir(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk):

    def write():
        with written_whole(small_disk / "large") as beside:
            beside.write_bytes(bytes(2**21))

    with pytest.raises(WriteError, match=r"No space left on device\); \d\.\d MB are free"):
        write()
    assert not os.listdir(small_disk)
    with pytest.raises(WriteError, match=r"preset' cannot .* needs about 8\.\d MB, and 1\.0 MB"):
        DMFormerN(num_classes=10).save_to_preset(small_disk / "preset")
    assert not os.listdir(small_disk)


def test_a_folder_is_filled_by_the_first_and_the_others_wait(tmp_path):
    pytest.importorskip("fcntl")
    folder = tmp_path / "new" / "folder"
    file, filled, begun, waited = folder / "file", [], threading.Event(), threading.Event()

    def fill():
        filled.append(threading.current_thread())
        begun.set()
        assert waited.wait(30)
        file.write_text("whole")

    arguments = (folder, file.exists, fill, waited.set)
    first = threading.Thread(target=fill_once, args=arguments)
    first.start()
    assert begun.wait(30)
    fill_once(*arguments)
    assert file.read_text() == "whole"
    first.join()
    fill_once(*arguments)
    assert filled == [first]
