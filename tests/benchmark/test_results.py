"""Medians, paired ratios, the fraction of the limit, and the files that hold them."""

import json

import numpy as np
import pytest

from dmformer_keras.benchmark import results
from dmformer_keras.benchmark.contestants import Contestant
from dmformer_keras.benchmark.measurement import Settings
from dmformer_keras.errors import DMFormerError

pytestmark = pytest.mark.backend_independent

MACHINE = {
    "cpu": "a processor",
    "gpu": None,
    "processors": 2,
    "threads": 2,
    "memory": "8 GB",
    "system": "Linux",
    "python": "3.11",
    "libraries": {"keras": "3"},
}


def record(model, seconds, runtime="torch", operations=10**9, **attributes):
    """A contestant whose steps took `seconds`, one number or two a round."""
    contestant = Contestant(model, runtime, **attributes)
    return {
        **vars(contestant),
        "name": contestant.name,
        "status": "measured",
        "parameters": 2_000_000,
        "multiply_accumulates": operations,
        "peak_memory": 5_000_000,
        "rounds": [np.atleast_1d(step).tolist() for step in seconds],
    }


def test_throughput_is_images_over_seconds_of_each_round():
    (found,) = results.summarize([record("a", [[0.5, 1.5], 2.0, 4.0], batch_size=8)])
    speed = found["summary"]["images_per_second"]
    assert speed["median"] == 4.0  # of 8, 4 and 2
    assert speed["quartiles"] == [3.0, 6.0]
    assert found["summary"]["latency"]["median"] == 1.75


def test_ratios_are_of_neighbors_in_time():
    # The machine slows down tenfold midway: both alike.
    slow = np.array([1.0, 1.0, 10.0, 10.0])
    records = [record("fast", slow / 3), record("base", slow)]
    results.summarize(records, baseline="base")
    assert records[0]["summary"]["ratio"]["quartiles"] == pytest.approx([3, 3])
    assert results.ratios(records[1], records[0])["median"] == pytest.approx(1 / 3)


def test_baseline_is_of_the_same_runtime_and_sizes():
    records = [
        record("base", [1.0]),
        record("base", [2.0], runtime="jax"),
        record("base", [4.0], batch_size=2),
        record("other", [4.0], runtime="jax"),
        record("other", [4.0], runtime="openvino"),
    ]
    results.summarize(records, baseline="base")
    assert records[3]["summary"]["ratio"]["median"] == 0.5
    assert records[2]["summary"]["ratio"]["median"] == 1.0
    assert "ratio" not in records[4]["summary"]
    results.summarize(records, baseline="base@torch")
    assert records[4]["summary"]["ratio"]["median"] == 0.25


@pytest.mark.parametrize(("mode", "passes"), [("inference", 1), ("training", 3)])
def test_fraction_of_the_limit_of_the_faster_matrix_product(mode, passes):
    records = [
        record("matmul", [0.1, 0.2], runtime="numpy", operations=10**9),  # 20 and 10 GFLOP/s
        record("matmul", [0.2, 0.4], operations=10**9),
        record("model", [1.0, 2.0], operations=2 * 10**9, mode=mode),  # 4 and 2 GFLOP/s a pass
    ]
    results.summarize(records)
    fraction = records[2]["summary"]["fraction_of_limit"]
    assert fraction["quartiles"] == pytest.approx([0.2 * passes] * 2)
    assert "fraction_of_limit" not in records[0]["summary"]


def test_uncounted_models_have_no_fraction_and_stand_in_the_table():
    records = [record("matmul", [0.1]), record("attention", [1.0], operations=None)]
    results.summarize(records)
    assert "fraction_of_limit" not in records[1]["summary"]
    assert "attention@torch" in results.table(records)


def test_one_that_failed_midway_is_compared_by_its_rounds():
    records = [record("short", [1.0]), record("long", [2.0, 8.0])]
    results.summarize(records, baseline="long")
    assert records[0]["summary"]["ratio"]["median"] == 2.0


def test_files_say_what_made_them_and_who_is_missing(tmp_path):
    records = [record("slow", [2.0]), record("fast", [1.0]), record("gone", [])]
    records[2].update(status="failed", reason="no memory")
    results.summarize(records, baseline="slow")
    settings = Settings(threads=2, rounds=1)
    results.write_results(tmp_path / "new", records, "dmformer benchmark ...", MACHINE, settings)
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {"results.json", "results.md", "throughput.png"}
    stored = json.loads((tmp_path / "new" / "results.json").read_text())
    assert stored["command"] == "dmformer benchmark ..."
    assert stored["machine"] == MACHINE
    assert stored["contestants"][0]["rounds"] == [[2.0]]
    page = (tmp_path / "new" / "results.md").read_text()
    assert "`dmformer benchmark ...`" in page
    assert "a processor" in page
    assert page.index("fast@torch") < page.index("slow@torch")
    assert "gone@torch failed: no memory" in page


def test_the_picture_has_a_bar_for_each_that_was_measured():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from dmformer_keras.benchmark.plot import _draw_panel

    records = [record("dmformer_n", [2.0]), record("keras-hub/attention", [1.0], operations=None)]
    results.summarize(records)
    axes = Figure().subplots()
    _draw_panel(axes, records)
    bars, colors = axes.patches, {bar.get_facecolor() for bar in axes.patches}
    assert [bar.get_width() for bar in bars] == [0.5, 1.0]  # from the bottom up
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "dmformer_n@torch", "keras-hub/attention@torch",
    ]  # fmt: skip
    assert {text.get_text() for text in axes.texts} == {"0.5", "1.0"}
    assert len(colors) == 2  # peers are told apart


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DMFormerError, match="--output"):
        results.make_folder(tmp_path / "file")
