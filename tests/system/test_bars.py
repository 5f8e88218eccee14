"""What long work says of itself."""

import sys

import pytest

from dmformer_keras.system import bars

pytestmark = pytest.mark.backend_independent


def test_without_a_terminal_a_line_each_half_minute(monkeypatch, capsys):
    clock = iter([0, 29, 31, 40, 62, 93])
    monkeypatch.setattr(bars, "monotonic", lambda: next(clock))
    with bars.progress_bar("Checking images", 5000) as bar:
        for _ in range(5):
            bar.update(1000)
    assert bar.n == 5000
    assert capsys.readouterr().err.splitlines() == [
        "Checking images: 2,000 of 5,000 images",
        "Checking images: 4,000 of 5,000 images",
    ]


def test_a_terminal_shows_a_bar_and_nothing_is_shown_unasked(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for shown in (True, False):
        with bars.progress_bar("Listing", None, "files", shown=shown) as bar:
            bar.update(5)
        assert ("Listing: 5 files" in capsys.readouterr().err) is shown
