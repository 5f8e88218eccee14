"""What every source of labeled images offers, wherever the images lie."""

import copy
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from dmformer_keras.data.images import check_image_header, decode_image
from dmformer_keras.data.trees import printable, quoted
from dmformer_keras.errors import DMFormerError
from dmformer_keras.system.bars import progress_bar
from dmformer_keras.type_names import Pixels

_VERIFY_CHUNK = 64
# The most that an error quotes, so that it stays readable.
_SHOWN_REASONS = 200
_SHOWN_COMPLAINTS = 280
_SHOWN_TITLE = 80
_SHOWN_SKIPPED = 10


class ImageSource:
    """Labeled images by number, as `open_source` returns them.

    `len(source)` is the number of images.

    Attributes:
        title: str, where the images come from.
        split: str, "train", "val", "test" or "all".
        class_names: list of str, by class index.
        labels: int32 array (number of images,), or None where the images are streamed.
        channels: int, of every image.
        skipped: list of (name, reason), the files that were left out.

    Example:

    >>> from dmformer_keras.data import open_source
    >>> source = open_source((np.zeros((4, 8, 8, 3), "uint8"), [0, 0, 1, 1]), split="all")
    >>> image, label = source.read(2)
    >>> image.shape, label, len(source)
    ((8, 8, 3), 1, 4)
    """

    def __init__(
        self,
        title: str,
        split: str,
        class_names: Sequence[str],
        labels: ArrayLike | None,
        channels: int,
        skipped: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.title = title
        self.split = split
        self.class_names = list(class_names)
        self.labels: Any = None if labels is None else np.asarray(labels, np.int32)
        self.channels = channels
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Pixels, int]:
        """One image and its class.

        Args:
            index: int, 0 to `len(source) - 1`.

        Returns:
            uint8 array (height, width, channels), and int.

        Raises:
            DMFormerError: the image cannot be read or decoded.
        """
        return self._image(self._checked(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        """What to call an image: its path inside the folder or archive, or its number.

        Args:
            index: int, 0 to `len(source) - 1`.

        Returns:
            str.
        """
        return self._name(self._checked(index))

    def stamp(self, index: int) -> tuple[Any, ...] | int:
        """What changes where the content of an image, or of its mask, changes.

        Files are not read for it: the size and time of a file tell, or the checksum that an
        archive keeps.

        Args:
            index: int, 0 to `len(source) - 1`.

        Returns:
            Value that compares, tuple or int.
        """
        image, label = self.read(index)
        return zlib.crc32(np.asarray(label).tobytes(), zlib.crc32(np.ascontiguousarray(image).data))

    def contents(self, index: int) -> bytes:
        """The bytes that an image, and its mask, are decoded from.

        Args:
            index: int, 0 to `len(source) - 1`.

        Returns:
            bytes; where there are none, what `stamp` tells.
        """
        return repr(self.stamp(index)).encode()

    def with_reader(self, read: Callable[[int], Any]) -> Self:
        """Returns a copy of this source whose examples come from elsewhere.

        Args:
            read: function of an index that returns what `read` of this source returns, called
                from several threads.

        Returns:
            ImageSource of the same kind.
        """
        twin = copy.copy(self)
        twin.read = read  # type: ignore[method-assign, assignment]
        return twin

    def _image(self, index: int) -> Pixels:
        raise NotImplementedError

    def _name(self, index: int) -> str:
        raise NotImplementedError

    def describe(self) -> str:
        """The source in a few lines for people: counts in all and by class.

        Returns:
            str.

        Example:

        >>> from dmformer_keras.data import open_source
        >>> print(open_source("digits", split="test").describe().splitlines()[0])
        digits, split test: 359 images of 10 classes
        """
        lines = [
            f"{self.title}, split {self.split}: {len(self)} images of "
            f"{len(self.class_names)} classes"
        ]
        if self.labels is not None:
            counts = np.bincount(self.labels, minlength=len(self.class_names))
            lines += [
                f"  {number:>4} {name}: {count}"
                for number, (name, count) in enumerate(zip(self.class_names, counts, strict=True))
            ]
        if self.skipped:
            lines.append(f"  skipped {len(self.skipped)}, the first: {self.skipped[0][1]}")
        return "\n".join(map(printable, lines))

    def __repr__(self):
        return (
            f"{type(self).__name__}({self.title!r}, split={self.split!r}, images={len(self)}, "
            f"classes={len(self.class_names)}, channels={self.channels}, "
            f"skipped={len(self.skipped)})"
        )

    def _checked(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return index


class EncodedSource(ImageSource):
    """Images kept as the bytes of image files, which `fetch` returns for each of `keys`.

    `fetch` is called from several threads. `stamp` returns for a key what changes with its content;
    None reads the bytes instead. The other arguments are those of `ImageSource`.
    """

    def __init__(
        self,
        title,
        split,
        class_names,
        labels,
        channels,
        skipped=(),
        *,
        keys,
        names,
        fetch,
        stamp=None,
    ):
        super().__init__(title, split, class_names, labels, channels, skipped)
        self._keys = keys
        self._names = names
        self._fetch = fetch
        self._stamp = stamp

    def encoded(self, index):
        """The bytes of one image file."""
        return self._fetch(self._keys[self._checked(index)])

    def verified(self, on_corrupt, fully, problems=()):
        """Look at every image once, see `find_problems`; returns this source, or one without the
        images that cannot be decoded.
        """

        def look(index):
            if fully:
                self.read(index)
            else:
                check_image_header(self.encoded(index), quoted(self.name(index)))

        found = find_problems(len(self), look)
        if leaves_out(self, found, on_corrupt, problems):
            return self._without(found, problems)
        return self

    def _without(self, problems, others):
        skipped = [*others, *((self.name(index), reason) for index, reason in problems.items())]
        kept = [index for index in range(len(self)) if index not in problems]
        labels = self.labels[kept]
        emptied = np.setdiff1d(self.labels, labels)
        if emptied.size:
            raise DMFormerError(
                f"{self.title} has no image left in class {self.class_names[emptied[0]]!r} after "
                f"skipping {len(skipped)} that cannot be decoded, and every class needs "
                "one; replace these files, or remove the class."
            )
        return EncodedSource(
            self.title,
            self.split,
            self.class_names,
            labels,
            self.channels,
            self.skipped + skipped,
            keys=[self._keys[index] for index in kept],
            names=[self._names[index] for index in kept],
            fetch=self._fetch,
            stamp=self._stamp,
        )

    def contents(self, index):
        return self.encoded(index)

    def stamp(self, index):
        if self._stamp is None:
            return zlib.crc32(self.encoded(index))
        return self._stamp(self._keys[self._checked(index)])

    def _image(self, index):
        name = quoted(self._names[index])
        return decode_image(self.encoded(index), self.channels, name, reduce=True)

    def _name(self, index):
        return self._names[index]


def find_problems(count, look):
    """Look at every image once, with a progress bar on stderr, in several threads; returns a dict
    {index: str, what is wrong}, of the images for which `look` raised, in order.
    """

    def look_at_some(first):
        found = {}
        for index in range(first, min(first + _VERIFY_CHUNK, count)):
            try:
                look(index)
            except DMFormerError as error:
                found[index] = str(error)
        return found

    problems = {}
    with (
        ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool,
        progress_bar("Checking images", count, delay=1) as progress,
    ):
        for found in pool.map(look_at_some, range(0, count, _VERIFY_CHUNK)):
            problems.update(found)
            progress.update(min(_VERIFY_CHUNK, count - progress.n))
    return problems


def leaves_out(source, found, on_corrupt, others=()):
    """Decide what the problems of some images mean for a source; returns a bool, whether files are
    to be left out.
    """
    reasons = [*(reason for _, reason in others), *found.values()]
    if reasons and on_corrupt == "error":
        raise UnusableImagesError(source.title, reasons, len(source) + len(others))
    return bool(reasons)


class UnusableImagesError(DMFormerError):
    """Some of `count` images cannot be used: why, and how to leave them out."""

    def __init__(self, title, reasons, count):
        super().__init__(
            f"{title[-_SHOWN_TITLE:]} has {len(reasons)} image(s) of {count} that cannot be used: "
            f'{first_reasons(reasons)} To list all and leave them out, pass on_corrupt="skip".'
        )
        self.title, self.reasons, self.count = title, reasons, count

    def with_those_of(self, other):
        """The error for the unusable images of two splits of a data set."""
        reasons = list(dict.fromkeys([*self.reasons, *other.reasons]))
        twice = len(self.reasons) + len(other.reasons) - len(reasons)
        return UnusableImagesError(self.title, reasons, self.count + other.count - twice)


def refuse_layout(title, complaints):
    """Says what is wrong with the folders of a data set, all of it at once."""
    if len(complaints) == 1:
        raise DMFormerError(complaints[0])
    # Told once is enough.
    complaints = [one.replace(f" of {title}", "").replace(title, "it") for one in complaints]
    raise DMFormerError(
        f"{title[-_SHOWN_TITLE:]} has {len(complaints)} problems: "
        f"{first_reasons(complaints, _SHOWN_COMPLAINTS)}"
    )


def first_reasons(reasons, length=_SHOWN_REASONS):
    """As many of some sentences as an error may quote, and how many more there are."""
    shown = reasons[0] if len(reasons[0]) <= length else f"{reasons[0][:length]}…"
    count = 1
    for reason in reasons[1:]:
        if len(shown) + len(reason) >= length:
            break
        shown, count = f"{shown} {reason}", count + 1
    return shown if count == len(reasons) else f"{shown} (and {len(reasons) - count} more)"


def skipped_files(*sources):
    """(name, reason) of the files that sources leave out, each once: some belong to no split."""
    return list(dict.fromkeys(tuple(file) for source in sources for file in source.skipped))


def skipped_lines(reasons, of="", where=""):
    """Says how many files were left out, and why the first of them."""
    lines = [f"Skipped {len(reasons):,} file(s){of}:"]
    lines += map(printable, reasons[:_SHOWN_SKIPPED])
    if len(reasons) > _SHOWN_SKIPPED:
        lines.append(f"and {len(reasons) - _SHOWN_SKIPPED:,} more{where}")
    return "\n  ".join(lines)
