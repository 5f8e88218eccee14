"""Images in a folder of class folders, or in a zip of one, read in place."""

import lzma
import os
import re
import stat
import zipfile
import zlib
from pathlib import Path

from dmformer_keras.data.image_source import EncodedSource
from dmformer_keras.data.images import check_file_channels
from dmformer_keras.data.splits import carve, stored_split
from dmformer_keras.errors import DMFormerError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
CLASSES_FILE = "classes.tsv"
LAYOUT = (
    "a folder for every class with its images inside, CLASS/IMAGE, "
    "optionally under train/, val/ and test/"
)

_SPLIT_OF_FOLDER = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_JUNK = ("__macosx", "thumbs.db", "desktop.ini")
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
# A member is read whole into memory; no image comes near, a zip bomb goes beyond.
_MEMBER_BYTES_LIMIT = 2**29


class DirectoryTree:
    """A folder on disk.

    Args:
        root: str or path.

    Attributes:
        title: str, for messages.
        files: list of str, the paths of all files, relative, with "/", sorted.
        folders: list of str, likewise of all folders.
    """

    def __init__(self, root):
        self.title = repr(str(root))
        self._root = os.fspath(root)
        self.files, self.folders = [], []
        self._scan("")
        self.files.sort()
        self.folders.sort()

    def read(self, path):
        """The content of a file.

        Args:
            path: str, one of `files`.

        Returns:
            bytes.

        Raises:
            DMFormerError: it cannot be read.
        """
        try:
            with open(os.path.join(self._root, path), "rb") as file:
                return file.read()
        except OSError as error:
            raise DMFormerError(
                f"Cannot read {path!r} in {self.title}: {error.strerror}; "
                "check the file and its permissions."
            ) from error

    def _scan(self, prefix):
        folder = os.path.join(self._root, prefix)
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DMFormerError(
                f"Cannot list the folder {folder!r}: {error.strerror}; check its permissions."
            ) from error
        for entry in entries:
            path = prefix + entry.name
            if _is_junk(path):
                continue
            if not entry.is_dir():
                self.files.append(path)
                continue
            if entry.is_symlink() and Path(folder).resolve().is_relative_to(
                Path(entry.path).resolve()
            ):
                raise DMFormerError(
                    f"{path!r} in {self.title} links to a folder around itself; remove the link."
                )
            self.folders.append(path)
            self._scan(path + "/")


class ZipTree:
    """A zip archive, read in place: nothing is unpacked to disk.

    Threads and forked processes may read at the same time. A single folder around
    everything is left out of the paths.

    Args:
        path: str or path of the archive.

    Attributes:
        title, files, folders: see `DirectoryTree`.

    Raises:
        DMFormerError: the archive is damaged, or holds a path that leads outside of it,
            a link, an encrypted file, or a path twice.
    """

    def __init__(self, path):
        self.title = repr(str(path))
        self._path = os.path.abspath(path)
        self._handles = {}
        try:
            members = self._handle().infolist()
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DMFormerError(
                f"Cannot open the archive {self.title}: {error}; give an undamaged zip file."
            ) from error
        self._members = {}
        folders = set()
        for member in members:
            name = self._checked_name(member)
            if _is_junk(name):
                continue
            parents = name.split("/")[:-1]
            folders.update("/".join(parents[:depth]) for depth in range(1, len(parents) + 1))
            if not name.endswith("/"):
                if name in self._members:
                    raise DMFormerError(
                        f"The archive {self.title} holds {name!r} twice; make it anew."
                    )
                self._members[name] = member
        self.files, self.folders = sorted(self._members), sorted(folders)
        self._strip_common_folder()

    def read(self, path):
        """The content of a file.

        Args:
            path: str, one of `files`.

        Returns:
            bytes.

        Raises:
            DMFormerError: it is damaged or too large to be an image.
        """
        member = self._members[path]
        try:
            if member.file_size > _MEMBER_BYTES_LIMIT:
                raise ValueError(f"it would unpack to {member.file_size} bytes")
            return self._handle().read(member)
        except _UNREADABLE_MEMBER as error:
            raise DMFormerError(
                f"Cannot read {path!r} in {self.title}: {error}; make the archive anew."
            ) from error

    def __getstate__(self):
        return self.__dict__ | {"_handles": {}}

    def _handle(self):
        # One handle a process: a fork would share the position in the file.
        process = os.getpid()
        if process not in self._handles:
            self._handles.setdefault(process, zipfile.ZipFile(self._path))
        return self._handles[process]

    def _checked_name(self, member):
        name = member.filename.replace("\\", "/")
        problem = None
        if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            problem = "whose path leads outside of the archive"
        elif stat.S_ISLNK(member.external_attr >> 16):
            problem = "which is a link"
        elif member.flag_bits & 1:
            problem = "which is encrypted"
        if problem is None:
            return name.removeprefix("./")
        raise DMFormerError(
            f"The archive {self.title} holds {member.filename!r}, {problem}; "
            "make it anew without such a member."
        )

    def _strip_common_folder(self):
        tops = {path.split("/")[0] for path in self.files + self.folders}
        if len(tops) != 1:
            return
        top = tops.pop()
        holds_folders = any(folder.startswith(top + "/") for folder in self.folders)
        if not holds_folders or top.lower() in _SPLIT_OF_FOLDER:
            return
        start = len(top) + 1
        self._members = {path[start:]: member for path, member in self._members.items()}
        self.files = [path[start:] for path in self.files]
        self.folders = [path[start:] for path in self.folders if path != top]


def open_folder(path, split, *, channels, on_corrupt, verify, validation_fraction, seed):
    """Open a folder of class folders, or a zip of one.

    Args:
        path: str or path.
        split, channels, on_corrupt, verify, validation_fraction, seed: see `open_source`.

    Returns:
        EncodedSource.

    Raises:
        DMFormerError: see `open_source`.
    """
    check_file_channels(channels)
    tree = open_tree(path)
    prefixes = split_prefixes(tree)
    stored, carved = stored_split(tree.title, split, prefixes)
    class_folders, class_names = _classes(tree, prefixes, stored)
    paths, labels, unknown = _labelled_files(tree, prefixes[stored], class_folders)
    if unknown and on_corrupt == "error":
        raise DMFormerError(
            f"{tree.title} has {len(unknown)} file(s) in its class folders that are no images by "
            f"their name, the first {unknown[0]!r}; remove them or pass on_corrupt='skip' "
            f"(images end in {' '.join(EXTENSIONS)})."
        )
    if carved:
        chosen = carve(tree.title, split, labels, validation_fraction, seed)
        paths, labels = [paths[index] for index in chosen], [labels[index] for index in chosen]
    source = EncodedSource(
        str(path),
        split,
        class_names,
        labels,
        channels,
        [(name, f"{name!r} is no image by its name") for name in unknown],
        keys=paths,
        names=paths,
        fetch=tree.read,
    )
    return source.verified(on_corrupt, fully=verify)


def open_tree(path, layout=LAYOUT):
    """Open a folder, or a zip archive, as a tree of files.

    Args:
        path: str or path.
        layout: str, what was expected in it, for the error.

    Returns:
        DirectoryTree or ZipTree.

    Raises:
        DMFormerError: there is no such thing, or the archive is damaged or unsafe.
    """
    if os.path.isdir(path):
        return DirectoryTree(path)
    if zipfile.is_zipfile(path):
        return ZipTree(path)
    problem = "is neither a folder nor a zip archive" if os.path.exists(path) else "does not exist"
    raise DMFormerError(f"The data source {str(path)!r} {problem}; give {layout}, or a zip of it.")


def split_prefixes(tree, under=""):
    """Find the folders of the splits.

    Args:
        tree: DirectoryTree or ZipTree.
        under: str, where to look: "" or a path that ends in "/".

    Returns:
        dict {split: prefix of its paths}; {"all": under} where there are no split folders.

    Raises:
        DMFormerError: a split has two folders.
    """
    tops = child_folders(tree, under)
    named = {}
    for folder in tops:
        split = _SPLIT_OF_FOLDER.get(folder.lower())
        if split in named:
            raise DMFormerError(
                f"{tree.title} has two folders for the {split!r} split, {named[split][:-1]!r} and "
                f"{under + folder!r}; keep one."
            )
        if split:
            named[split] = under + folder + "/"
    # One such name among others is a class: cars, buses and a train.
    if named and (len(named) == len(tops) or len(named) > 1):
        return named
    return {"all": under}


def _classes(tree, prefixes, stored):
    """The class folders and the class names, by index."""
    reference = "train" if "train" in prefixes else stored
    present = child_folders(tree, prefixes[reference])
    if not present:
        raise DMFormerError(f"{tree.title} has no class folders; give {LAYOUT}.")
    if {"images", "masks"} <= set(present):
        raise DMFormerError(
            f"{tree.title} holds images/ and masks/, which is data for segmentation; "
            f"open it with task='segment', or for classification give {LAYOUT}."
        )
    if CLASSES_FILE in tree.files:
        folders, names = _read_classes_file(tree)
        missing = [folder for folder in folders if folder not in present]
        if missing and reference in ("train", "all"):
            raise DMFormerError(
                f"{tree.title} has no folder {prefixes[reference] + missing[0]!r}, which its "
                f"{CLASSES_FILE} names; add it or remove the line."
            )
    else:
        folders = names = present
    _check_known(tree, prefixes[reference], present, folders)
    _check_known(tree, prefixes[stored], child_folders(tree, prefixes[stored]), folders)
    return folders, names


def _check_known(tree, prefix, present, folders):
    unknown = sorted(set(present) - set(folders))
    if unknown:
        where = CLASSES_FILE if CLASSES_FILE in tree.files else "the training classes"
        raise DMFormerError(
            f"The class folder {prefix + unknown[0]!r} of {tree.title} is not in {where}; "
            "name the class folders alike in every split."
        )


def _read_classes_file(tree):
    """The second column (folders) and the third or second (names), in the first's order."""
    rows = read_classes_rows(tree)
    by_index = {row[0]: row[1:] for row in rows if len(row) > 1 and row[1]}
    indexes = [str(index) for index in range(len(rows))]
    folders = [by_index[index][0] for index in indexes if index in by_index]
    if not rows or len(set(folders)) != len(rows):
        raise DMFormerError(
            f"{CLASSES_FILE} of {tree.title} must have a line for every class with tabs between "
            "index (from 0, each once), folder (each once) and, optionally, name."
        )
    return folders, [(by_index[index][1:2] or by_index[index])[0] for index in indexes]


def read_classes_rows(tree):
    """The cells of classes.tsv, line by line, without its header and empty lines.

    Args:
        tree: DirectoryTree or ZipTree.

    Returns:
        list of lists of str.

    Raises:
        DMFormerError: it is not UTF-8.
    """
    try:
        lines = tree.read(CLASSES_FILE).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DMFormerError(f"{CLASSES_FILE} of {tree.title} is not UTF-8; save it so.") from error
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
    return rows[1:] if rows and rows[0][0].lower() == "index" else rows


def _labelled_files(tree, prefix, class_folders):
    """Paths and labels of a split's images, by class and path, and the other files' paths."""
    by_folder = {folder: [] for folder in child_folders(tree, prefix)}
    unknown = []
    for path in tree.files:
        folder, inside, _ = path[len(prefix) :].partition("/")
        if not path.startswith(prefix) or not inside:
            continue
        known = path.lower().endswith(EXTENSIONS)
        (by_folder[folder] if known else unknown).append(path)
    paths, labels = [], []
    for label, folder in enumerate(class_folders):
        paths += by_folder.get(folder, [])
        labels += [label] * len(by_folder.get(folder, []))
    empty = [folder for folder, members in by_folder.items() if not members]
    if empty:
        raise DMFormerError(
            f"The class folder {prefix + empty[0]!r} of {tree.title} holds no image; "
            "add images or remove the folder."
        )
    return paths, labels, unknown


def child_folders(tree, prefix):
    """The folders directly under a prefix.

    Args:
        tree: DirectoryTree or ZipTree.
        prefix: str, "" or a path that ends in "/".

    Returns:
        list of str, their names.
    """
    return [
        folder[len(prefix) :]
        for folder in tree.folders
        if folder.startswith(prefix) and "/" not in folder[len(prefix) :]
    ]


def _is_junk(path):
    """Whether a system or an editor left this behind: hidden, __MACOSX, Thumbs.db."""
    return any(part.startswith(".") or part.lower() in _JUNK for part in path.split("/"))
