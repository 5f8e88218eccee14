"""The files of a folder, or of a zip archive, by their paths inside it."""

import collections
import copy
import lzma
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from pathlib import Path

from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.bars import progress_bar
from dmformer_keras.system.files import FILE_BYTES_LIMIT, open_regular_file, read_regular_file

CLASSES_FILE = "classes.tsv"

# What systems, camera programs and network drives leave behind, in addition to hidden files.
_JUNK = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
}
_UNREADABLE_MEMBER = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
# Categories of Unicode: control characters, halves of others, breaks of lines and paragraphs.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
_DEEPEST_FOLDER = 64
_QUOTED_LENGTH = 80
_CLASS_NAME_LENGTH = 255
_PROGRESS_STEP = 1000


class FileTree:
    """Files and folders by their paths: relative, with "/", sorted, without junk. `title` is for
    messages.
    """

    def __init__(self, title, files, folders):
        self.title = title
        self._prefix = ""
        self._outside = {}
        self._hold(files, folders)

    def read(self, path, limit=FILE_BYTES_LIMIT):
        """The content of a file."""
        return self._read(self._outside.get(path, self._prefix + path), path, limit)

    def stamp(self, path):
        """What changes with the content of a file, which is not read for it: a tuple of ints: the
        size, and the time or, in an archive, the checksum.
        """
        return self._stamp(self._outside.get(path, self._prefix + path))

    def head(self, path, count):
        """The first bytes of a file; none where it cannot be read."""
        try:
            return self._head(self._prefix + path, count)
        except _UNREADABLE_MEMBER:
            return b""

    def child_folders(self, prefix=""):
        """The names of the folders directly under a prefix, sorted."""
        return list(self._children.get(prefix[:-1], ()))

    def child_files(self, prefix=""):
        """The paths of the files directly under a prefix, sorted."""
        return list(self._child_files.get(prefix[:-1], ()))

    def below(self, prefix):
        """The tree under one of its folders; a classes.tsv outside still counts: FileTree of the
        same kind.
        """
        tree = copy.copy(self)
        tree._prefix, tree._outside = self._prefix + prefix, {}
        files, folders = (
            [path[len(prefix) :] for path in paths if path.startswith(prefix)]
            for paths in (self.files, self.folders)
        )
        if CLASSES_FILE in self.child_files() and CLASSES_FILE not in files:
            files.append(CLASSES_FILE)
            tree._outside = {
                CLASSES_FILE: self._outside.get(CLASSES_FILE, self._prefix + CLASSES_FILE)
            }
        tree._hold(files, folders)
        return tree

    def _hold(self, files, folders):
        self.files, self.folders = sorted(files), sorted(folders)
        self._children, self._child_files = ({}, {})
        for path in self.folders:
            parent, _, name = path.rpartition("/")
            self._children.setdefault(parent, []).append(name)
        for path in self.files:
            self._child_files.setdefault(path.rpartition("/")[0], []).append(path)


class DirectoryTree(FileTree):
    """A folder on disk. Raises if a folder cannot be listed, or links to a folder around itself."""

    def __init__(self, root):
        self._root = os.fspath(root)
        self.title = quoted(str(root), 120)
        files, folders = [], []
        with _progress(f"Listing {self.title}") as progress:
            waiting = collections.deque([""])
            while waiting:
                self._scan(waiting.popleft(), files, folders, waiting)
                progress.update(len(files) - progress.n)
        super().__init__(self.title, files, folders)

    def _read(self, path, name, limit):
        try:
            return read_regular_file(os.path.join(self._root, path), limit)
        except OSError as error:
            raise DMFormerError(
                f"Cannot read {quoted(name)} in {self.title}: {error.strerror or error}; "
                "check the file and its permissions."
            ) from error

    def _stamp(self, path):
        status = os.stat(os.path.join(self._root, path))
        return status.st_size, status.st_mtime_ns

    def _head(self, path, count):
        with open_regular_file(os.path.join(self._root, path)) as file:
            return file.read(count)

    def _scan(self, prefix, files, folders, waiting):
        folder = os.path.join(self._root, prefix)
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DMFormerError(
                f"Cannot list the folder {quoted(folder, 120)}: {error.strerror}; check its "
                "permissions."
            ) from error
        for entry in entries:
            path = prefix + entry.name
            if is_junk(entry.name):
                continue
            if not entry.is_dir():
                files.append(path)
                continue
            if entry.is_symlink() and Path(folder).resolve().is_relative_to(
                Path(entry.path).resolve()
            ):
                raise DMFormerError(
                    f"{quoted(path)} in {self.title} links to a folder around itself; remove the "
                    "link."
                )
            check_depth(path, self.title)
            folders.append(path)
            waiting.append(path + "/")


class ZipTree(FileTree):
    """A zip archive, read in place: nothing is unpacked to disk.

    Threads and forked processes may read at the same time. Raises if the archive is damaged, or
    contains a path that leads outside of it, a link, an encrypted file, or a path twice.
    """

    def __init__(self, path):
        self.title = quoted(str(path), 120)
        self._path = os.path.abspath(path)
        self._handles = {}
        try:
            members = self._handle().infolist()
        except _UNREADABLE_MEMBER as error:
            raise DMFormerError(
                f"Cannot open the archive {self.title}: {quoted(str(error))}; give an undamaged "
                "zip file."
            ) from error
        self._members, folders = {}, set()
        with _progress(f"Listing {self.title}", len(members)) as progress:
            for number, member in enumerate(members):
                self._add(member, folders)
                if number % _PROGRESS_STEP == 0:
                    progress.update(number - progress.n)
        super().__init__(self.title, self._members, folders)

    def __getstate__(self):
        return self.__dict__ | {"_handles": {}}

    def _read(self, path, name, limit):
        member = self._members[path]
        try:
            if member.file_size > limit:
                raise ValueError(
                    f"it would unpack to {member.file_size:,} bytes, over the limit of {limit:,}"
                )
            return self._handle().read(member)
        except _UNREADABLE_MEMBER as error:
            raise DMFormerError(
                f"Cannot read {quoted(name)} in {self.title}: {str(error)[:120]}; make the archive "
                "anew."
            ) from error

    def _stamp(self, path):
        member = self._members[path]
        return member.file_size, member.CRC

    def _head(self, path, count):
        with self._handle().open(self._members[path]) as file:
            return file.read(count)

    def _handle(self):
        # One handle per process, because forked processes would share the position in the file.
        process = os.getpid()
        if process not in self._handles:
            self._handles.setdefault(process, zipfile.ZipFile(self._path))
        return self._handles[process]

    def _add(self, member, folders):
        name = self._checked_name(member)
        if any(map(is_junk, name.split("/"))):
            return
        is_folder = name.endswith("/")
        folder = name[:-1] if is_folder else name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
        if is_folder or not name:
            return
        if name in self._members:
            raise DMFormerError(
                f"The archive {self.title} holds {quoted(name)} twice; create it again."
            )
        self._members[name] = member

    def _checked_name(self, member):
        name = member.filename.replace("\\", "/")
        problem = None
        if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            problem = "whose path leads outside of the archive"
        elif stat.S_ISLNK(member.external_attr >> 16):
            problem = "which is a link"
        elif member.flag_bits & 1:
            problem = "which is encrypted"
        if problem is not None:
            raise DMFormerError(
                f"The archive {self.title} holds {quoted(member.filename)}, {problem}; "
                "create it again without such a member."
            )
        check_depth(name, self.title)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return "/".join(parts) + ("/" if parts and name.endswith("/") else "")


def open_tree(path, layout):
    """Open a folder, or a zip archive, as a tree of files; returns DirectoryTree or ZipTree."""
    # os.path's functions treat a path with a null character as one that does not exist.
    if os.path.isdir(path):
        return DirectoryTree(path)
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        return ZipTree(path)
    exists = os.path.exists(path)
    problem = "is neither a folder nor a zip archive" if exists else "does not exist"
    raise DMFormerError(
        f"The data source {quoted(str(path), 120)} {problem}; give {layout}, or a zip of it."
    )


def is_junk(name):
    """Whether a system or a program left this file or folder behind: hidden, __MACOSX, @eaDir.

    Example:

    >>> is_junk(".ipynb_checkpoints"), is_junk("Thumbs.db"), is_junk("cat")
    (True, True, False)
    """
    return (name.startswith(".") and name != ".") or name.lower() in _JUNK


def check_depth(path, title):
    """Checks that a path has no more folders than a sensible layout would."""
    if path.count("/") > _DEEPEST_FOLDER:
        raise DMFormerError(
            f"{title} holds {quoted(path)}, over {_DEEPEST_FOLDER} folders deep; move its files up."
        )


def quoted(text, length=_QUOTED_LENGTH):
    """A name as an error quotes it: escaped where it cannot be printed, its middle left out.

    Example:

    >>> quoted("a" * 100, 9), quoted("caf\\udce9")
    ("'aaaa…aaaa'", "'caf\\\\udce9'")
    """
    shown = repr(text)
    if len(shown) <= length + 2:
        return shown
    half = length // 2
    return f"{shown[: half + 1]}…{shown[-half - 1 :]}"


def check_class_names(names, title):
    """Checks that class names can be printed and drawn."""
    for name in names:
        if any(unicodedata.category(char) in _UNPRINTABLE for char in name):
            raise DMFormerError(
                f"{title} has the class {quoted(name)}, whose name is not UTF-8 or has control "
                "characters; rename it."
            )
        if len(name) > _CLASS_NAME_LENGTH:
            raise DMFormerError(
                f"{title} has the class {quoted(name)}, whose name is over {_CLASS_NAME_LENGTH} "
                "characters long; shorten it."
            )


def check_no_twins(names, title, *, may_repeat=False):
    """Checks that no two class names look the same, such as "cat" and "cat ", or an accented letter
    written in Unicode's one way or the other; capitals tell classes apart. Where a table names
    classes whose folders differ, a name may repeat: ImageNet has two classes called crane.
    """
    seen = {}
    for name in names:
        visible = (char for char in name if unicodedata.category(char) != "Cf")
        look = " ".join(unicodedata.normalize("NFC", "".join(visible)).split())
        if not look:
            raise DMFormerError(
                f"{title} has the class {ascii(name)[:_QUOTED_LENGTH]}, whose name has no "
                "visible character; rename it."
            )
        if look in seen and not (may_repeat and seen[look] == name):
            one, other = (ascii(twin)[:_QUOTED_LENGTH] for twin in (seen[look], name))
            called = f"called {one}" if one == other else f"that look the same, {one} and {other}"
            raise DMFormerError(f"{title} has two classes {called}; rename one.")
        seen[look] = name


def printable(text):
    """A text with what a terminal cannot show escaped: names that are no UTF-8, control characters.

    Example:

    >>> printable("caf\\udce9/\\x1b[2J.jpg")
    'caf\\\\udce9/\\\\x1b[2J.jpg'
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _progress(title, total=None):
    return progress_bar(title, total, "files", delay=1, leave=False)
