"""Images decoded once: their pixels in memory or in a file, for all epochs of a training."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmformer_keras.data.images import resize_image
from dmformer_keras.data.segmentation_source import SegmentationSource
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.bars import progress_bar
from dmformer_keras.system.files import (
    WRITING,
    fill_once,
    open_regular_file,
    read_regular_file,
    read_regular_text,
    written_whole,
)
from dmformer_keras.type_names import PathLike

if TYPE_CHECKING:
    from dmformer_keras.data.image_source import ImageSource


MEMORY = "memory"
# How much larger than the training size images are kept, so that crops can be taken.
_SPARE = 1.5
# The most of the machine's memory, or of a disk's free space, that a cache may take.
_MEMORY_SHARE = 0.5
_DISK_SHARE = 0.9
# The number of images from which the size of all of them is estimated.
_SAMPLE = 256
# The number of images that are decoded in advance.
_AHEAD = 256
_PIXELS_FILE, _TABLE_FILE, _CONTENT_FILE = "pixels.bin", "table.npy", "cache.json"
# With a new number, caches of older versions are decoded again.
_VERSION = 1


def cached(
    source: ImageSource,
    image_size: tuple[int, int],
    where: PathLike,
    *,
    say: Callable[[str], Any] | None = None,
) -> ImageSource:
    """Decodes every image of a source once, and returns a source that reads the pixels.

    Images whose height and width both are over 1.5 times those of `image_size` are made
    smaller, their shape kept; no image is enlarged. Images with masks keep their own size,
    because crops of any scale are taken from them.

    Args:
        source: ImageSource.
        image_size: (height, width), ints, in pixels, of the largest images that are trained on.
        where: "memory", or the path of a folder. A folder that holds the pixels of these very
            images, at this size or larger, is used as it is; runs may share it.
        say: function that is given one line about what is done, or None.

    Returns:
        ImageSource of the same images, labels and names.

    Raises:
        DMFormerError: the images are streamed, one cannot be read, the pixels would not fit, or
            the folder holds something else.

    Example:

    >>> from dmformer_keras.data import open_source
    >>> digits = open_source("digits")
    >>> in_memory = cached(digits, (16, 16), "memory")
    >>> digits.read(0)[0].shape, in_memory.read(0)[0].shape
    ((32, 32, 3), (24, 24, 3))
    """
    if source.labels is None and not isinstance(source, SegmentationSource):
        raise DMFormerError(
            f"{source.title} is streamed, and its images cannot be kept decoded; leave out the "
            "cache and augment_on_device."
        )
    say = say or (lambda text: None)
    if where == MEMORY:
        return _in_memory(source, image_size, say)
    return _in_folder(source, image_size, Path(where), say)


def _in_memory(source, image_size, say):
    needed, memory = _needed_bytes(source, image_size), _memory()
    if memory is not None and needed > _MEMORY_SHARE * memory:
        raise DMFormerError(
            f"The {len(source):,} decoded images of {source.title} need about "
            f"{_gibibytes(needed)} of {_gibibytes(memory)} of memory, and at most half of it may "
            "be taken; give the cache a folder (--cache FOLDER), or leave out what keeps images in "
            "memory (the cache, augment_on_device)."
        )
    say(f"Decoding {len(source):,} images to memory, about {_gibibytes(needed)}")
    examples = list(_decoded(source, image_size))
    return source.with_reader(lambda index: examples[index])


def _in_folder(source, image_size, folder, say):
    content = _content(source, image_size)
    try:
        fill_once(
            folder,
            lambda: _holds(folder, content),
            lambda: _fill(source, image_size, folder, content, say),
            lambda: say(f"Waiting for another process to decode to {folder}"),
        )
    except OSError as error:
        raise DMFormerError(
            f"The decoded images cannot be written to {str(folder)!r} ({error.strerror}); give "
            "the cache another folder."
        ) from error
    say(f"Using the decoded images in {folder}")
    return source.with_reader(_FileReader(source, folder))


def _fill(source, image_size, folder, content, say):
    # A process that was killed leaves incomplete files, or files without a description.
    begun = {_PIXELS_FILE, _TABLE_FILE}
    found = {path.name for path in folder.iterdir() if not path.name.startswith(WRITING)}
    if not found <= begun:
        raise DMFormerError(
            f"The cache folder {str(folder)!r} holds something else than the images of "
            f"{source.title}, split {source.split}, decoded for {image_size[0]}x"
            f"{image_size[1]} pixels; give a new folder, or delete this one."
        )
    needed, free = _needed_bytes(source, image_size), shutil.disk_usage(folder).free
    if needed > _DISK_SHARE * free:
        raise DMFormerError(
            f"The {len(source):,} decoded images of {source.title} need about "
            f"{_gibibytes(needed)}, and {str(folder)!r} has {_gibibytes(free)} left; give the "
            "cache a folder on another disk, or leave it out."
        )
    say(f"Decoding {len(source):,} images to {folder}, about {_gibibytes(needed)}")
    _write(source, image_size, folder, content)


def _write(source, image_size, folder, content):
    table = []
    with written_whole(folder / _PIXELS_FILE) as path, open(path, "wb") as file:
        for image, label in _decoded(source, image_size):
            table.append((file.tell(), *image.shape[:2]))
            file.write(image.tobytes())
            if isinstance(label, np.ndarray):
                file.write(label.tobytes())
    with written_whole(folder / _TABLE_FILE) as path:
        np.save(path, np.array(table, np.int64), allow_pickle=False)
    # Written last: a folder without it is not a cache.
    with written_whole(folder / _CONTENT_FILE) as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class _FileReader:
    """Reads examples from the files of a cache; a function of the index, for threads."""

    def __init__(self, source, folder):
        try:
            table = io.BytesIO(read_regular_file(folder / _TABLE_FILE))
            self._table = np.load(table, allow_pickle=False)
            with open_regular_file(folder / _PIXELS_FILE) as file:
                self._pixels = np.memmap(file, np.uint8, "r")
            ends = self._table[:, 0] + self._table[:, 1] * self._table[:, 2] * self._planes(source)
            whole = len(ends) == len(source) and ends[-1] == len(self._pixels)
        except (OSError, ValueError, IndexError) as error:
            raise _damaged(folder) from error
        if not whole:
            raise _damaged(folder)
        self._channels = source.channels
        self._labels = source.labels

    @staticmethod
    def _planes(source):
        return source.channels + isinstance(source, SegmentationSource)

    def __call__(self, index):
        first, height, width = (int(number) for number in self._table[index])
        size = height * width * self._channels
        # A copy, because Pillow needs memory that belongs to the array.
        image = np.array(self._pixels[first : first + size]).reshape(height, width, -1)
        if self._labels is not None:
            return image, int(self._labels[index])
        mask = self._pixels[first + size : first + size + height * width]
        return image, np.array(mask).reshape(height, width)


def _damaged(folder):
    return DMFormerError(
        f"The cache folder {str(folder)!r} is damaged; delete it, and the images are decoded again."
    )


def _decoded(source, image_size):
    """Yields what `source.read` gives for every image, at the size that is kept, in order."""

    def read(index):
        image, label = source.read(index)
        if isinstance(label, np.ndarray):
            return image, label
        return _reduced(image, image_size), label

    pending = collections.deque()
    indexes = iter(range(len(source)))
    with (
        ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool,
        progress_bar("Decoding images", len(source), delay=1) as progress,
    ):
        for index in indexes:
            pending.append(pool.submit(read, index))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
                progress.update()
        while pending:
            yield pending.popleft().result()
            progress.update()


def _reduced(image, image_size):
    height, width = image.shape[:2]
    ratio = max(_SPARE * image_size[0] / height, _SPARE * image_size[1] / width)
    if ratio >= 1:
        return image
    return resize_image(image, (math.ceil(ratio * height), math.ceil(ratio * width)), "squash")


def _needed_bytes(source, image_size):
    sample = np.linspace(0, len(source) - 1, min(len(source), _SAMPLE)).astype(int)
    sizes = []
    for index in sample:
        image, label = source.read(int(index))
        with_mask = isinstance(label, np.ndarray)
        sizes.append(
            image.nbytes + label.nbytes if with_mask else _reduced(image, image_size).nbytes
        )
    return float(np.mean(sizes)) * len(source)


def _content(source, image_size):
    """What the files of a cache hold, as JSON values."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.name(index).encode("utf-8", "surrogateescape") + b"\0")
        digest.update(repr(source.stamp(index)).encode())
    masks = isinstance(source, SegmentationSource)
    if masks:  # which store class indexes
        digest.update(json.dumps(source.class_names).encode() + source.meanings().encode())
    return {
        "version": _VERSION,
        "images": len(source),
        "channels": source.channels,
        "masks": masks,
        "sha256": digest.hexdigest(),
        "image_size": [0, 0] if masks else list(image_size),
    }


def _holds(folder, content):
    try:
        held = json.loads(read_regular_text(folder / _CONTENT_FILE))
        height, width = held.pop("image_size")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
    needed = dict(content)
    needed_height, needed_width = needed.pop("image_size")
    return held == needed and height >= needed_height and width >= needed_width


def _gibibytes(size):
    return f"{size / 2**30:.1f} GiB"


def _memory():
    """The bytes of the machine's memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return None
