"""Turns, and contestants that fail, hang or are killed while the others go on."""

import os
import signal
import typing

import pytest

from dmformer_keras.benchmark import measurement, worker
from dmformer_keras.benchmark.contestants import Contestant
from dmformer_keras.benchmark.measurement import Settings, measure
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.once_under_jax

QUICK = Settings(threads=1, rounds=2, seconds=0.01, timeout=120)
PRODUCT = Contestant("matmul", "numpy")


class Actor:
    """Stands in for a worker: takes down whose turn it is."""

    turns: typing.ClassVar = []

    def __init__(self, contestant, settings):
        self.model = contestant.model

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    end = __exit__

    def prepare(self):
        return {"failed": "built wrongly"} if self.model == "broken" else {"prepare_seconds": 1}

    def take_turn(self):
        Actor.turns.append(self.model)
        if self.model == "dying" and Actor.turns.count("dying") == 2:
            return {"failed": "died"}
        return {"times": [1.0], "idle_cpu": 0.0}


@pytest.fixture
def actors(monkeypatch):
    monkeypatch.setattr(measurement, "_Worker", Actor)
    monkeypatch.setattr(Actor, "turns", [])
    monkeypatch.setattr(Contestant, "left_out", lambda self: None)


def cast(*names):
    return [Contestant(name, "torch") for name in names]


def test_each_takes_one_turn_a_round_in_changing_order(actors):
    records = measure(cast("a", "b", "c", "d"), Settings(threads=1, rounds=6), lambda line: None)
    rounds = [tuple(Actor.turns[start : start + 4]) for start in range(0, 24, 4)]
    assert {frozenset(turns) for turns in rounds} == {frozenset("abcd")}
    assert len(set(rounds)) > 2
    assert all(len(record["rounds"]) == 6 for record in records)


def test_the_others_go_on_without_one_that_fails(actors):
    records = measure(cast("a", "broken", "dying"), Settings(threads=1, rounds=3), lambda line: 0)
    assert [record["status"] for record in records] == ["measured", "failed", "failed"]
    assert [record.get("reason") for record in records] == [None, "built wrongly", "died"]
    assert [len(record["rounds"]) for record in records] == [3, 0, 1]


def test_more_threads_than_processors_are_refused():
    with pytest.raises(DMFormerError, match="100000 threads"):
        measure([PRODUCT], Settings(threads=100_000))


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    processes = []
    start = measurement._Worker.__init__

    def remember(self, *arguments):
        start(self, *arguments)
        processes.append(self._process)

    monkeypatch.setattr(measurement._Worker, "__init__", remember)
    return processes


def test_processes_measure_and_end(started):
    lines = []
    (record,) = measure([PRODUCT], QUICK, lines.append)
    assert record["status"] == "measured"
    assert len(record["rounds"]) == 2
    assert all(sum(times) >= QUICK.seconds for times in record["rounds"])
    assert record["multiply_accumulates"] == 2048**3
    # Two factors and the product, less what of it the allocator had at hand.
    assert record["peak_memory"] > 2 * 4 * 2048**2
    assert len(lines) == 3
    assert started[0].poll() is not None


def test_a_model_that_cannot_be_built_is_stated():
    pytest.importorskip("tensorflow")
    (record,) = measure([Contestant("keras/NoSuchNet", "tensorflow")], QUICK, lambda line: None)
    assert record["status"] == "failed"
    assert "NoSuchNet" in record["reason"]


def test_a_process_that_does_not_start_is_stated(monkeypatch):
    monkeypatch.setattr(measurement, "_environment", lambda *_: {"KERAS_BACKEND": "abacus"})
    (record,) = measure([PRODUCT], QUICK, lambda line: None)
    assert record["status"] == "failed"
    assert "abacus" in record["reason"]


def test_one_that_does_not_answer_is_ended(started):
    settings = Settings(threads=1, rounds=1, timeout=0.01)
    (record,) = measure([PRODUCT], settings, lambda line: None)
    assert record["status"] == "failed"
    assert "no answer" in record["reason"]
    assert started[0].poll() is not None


def test_one_that_is_killed_is_stated(started):
    def kill(line):
        if line.startswith("prepared"):
            os.kill(started[0].pid, signal.SIGKILL)

    (record,) = measure([PRODUCT], QUICK, kill)
    assert record["status"] == "failed"
    assert "SIGKILL" in record["reason"]


def test_an_interruption_ends_all(started):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure([PRODUCT], QUICK, interrupt)
    assert started[0].poll() is not None


def test_a_turn_lasts_as_long_as_asked():
    times = worker._timed(lambda: None, 0.01)
    assert sum(times) >= 0.01
    assert len(times) > 1
