"""Progress of long work: a bar on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS = 30


class Lines:
    """Prints progress as lines, in place of tqdm's bar, if stderr is not a terminal."""

    def __init__(self, title: str, total: int | None, unit: str):
        self.title, self.total, self.unit = title, total, unit
        self.n = 0
        self._last = monotonic()

    def update(self, number: int = 1) -> None:
        """Counts, and prints a line if the last one is half a minute old."""
        self.n += number
        now = monotonic()
        if now - self._last < LINE_SECONDS or self.n == self.total:
            return
        self._last = now
        of = "" if self.total is None else f" of {self.total:,}"
        print(f"{self.title}: {self.n:,}{of} {self.unit}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def progress_bar(
    title: str,
    total: int | None,
    unit: str = "images",
    *,
    shown: bool = True,
    delay: float = 0,
    leave: bool = True,
) -> tqdm | Lines:
    """Returns a context that shows progress on stderr, with `update(number)` and `n`.

    It is a `tqdm.tqdm` on a terminal, otherwise `Lines`. `total` is None if it is not known. A bar
    appears after `delay` seconds, and stays at the end with `leave`.

    >>> with progress_bar("Reading", 3, "files") as progress:
    ...     progress.update(2)
    >>> progress.n
    2
    """
    if shown and not sys.stderr.isatty():
        return Lines(title, total, unit)
    from tqdm import tqdm

    return tqdm(
        total=total, desc=title, unit=f" {unit}", delay=delay, leave=leave, disable=not shown
    )
