"""What a training says while an epoch lasts."""

import time

import keras
import pytest

from dmformer_keras.training import progress
from dmformer_keras.training.progress import Bar, Lines, shown_progress

pytestmark = pytest.mark.backend_independent


def run(callback, times, monkeypatch, verbose=1):
    """Shows an epoch of as many batches as there are times, each ending at its time."""
    clock = iter([0.0, *times])
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    callback.set_params({"verbose": verbose, "epochs": 2, "steps": len(times)})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    if isinstance(callback, Bar):
        callback.progbar.interval = 0  # show each batch, however soon it comes
    for batch in range(len(times)):
        callback.on_train_batch_end(batch, {"loss": 2.5})
        yield batch


def test_a_line_each_half_minute_with_the_time_left_once_it_means_something(monkeypatch, capsys):
    said = []
    # The first batch holds a minute of compiling; the others take two seconds each.
    for _ in run(Lines(), [60, *range(62, 140, 2), 200], monkeypatch):
        said.append(capsys.readouterr().out)
    lines = [line for line in said if line]
    assert lines[0] == "Epoch 1: 1 of 41 batches, loss 2.5000\n"
    assert lines[1] == "Epoch 1: 16 of 41 batches, some 50 s left, loss 2.5000\n"
    assert len(lines) == 3


def test_the_bar_begins_with_the_second_batch(monkeypatch):
    said = []
    monkeypatch.setattr(
        "keras.src.utils.io_utils.print_msg", lambda text, **options: said.append(text)
    )
    shown = []
    for _ in run(Bar(), [60, 61, 62], monkeypatch):
        shown.append(any("/3" in text for text in said))
    assert isinstance(Bar(), keras.callbacks.ProgbarLogger)  # in the place of Keras's own
    assert shown == [False, True, True]


def test_without_a_terminal_the_wait_for_the_first_batch_is_told(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)
    with shown_progress(2) as [lines, _]:
        time.sleep(0.5)  # compiling
        assert "The first batch is not done after 0 s\n" in capsys.readouterr().out
        lines.set_params({"steps": 2})
        lines.on_train_batch_end(0)
        time.sleep(0.5)
        assert "first batch" not in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt), shown_progress(2):
        raise KeyboardInterrupt
    time.sleep(0.5)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verbose", [1, 2])
def test_an_epoch_ends_without_what_is_hidden(verbose, monkeypatch):
    said = []
    monkeypatch.setattr(
        "keras.src.utils.io_utils.print_msg", lambda text, **options: said.append(text)
    )
    with shown_progress(verbose, hidden=["val_top5"]) as callbacks:
        bar = callbacks[-1]
        bar.set_params({"steps": 1, "epochs": 1, "verbose": verbose})
        bar.on_train_begin()
        bar.on_epoch_begin(0)
        bar.on_train_batch_end(0, {"loss": 2.0})
        bar.on_epoch_end(0, logs := {"loss": 2.0, "val_top1": 0.5, "val_top5": 1.0})
    assert "val_top1: 0.5" in "".join(said)
    assert "val_top5" not in "".join(said)
    assert logs["val_top5"] == 1.0  # for the callbacks that come after


def test_a_terminal_shows_a_bar_and_silence_nothing():
    with shown_progress(1) as [bar], shown_progress(0) as nothing:
        assert isinstance(bar, Bar)
        assert nothing == []


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_for_people(seconds, text):
    assert progress._duration(seconds) == text
