import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import TINIEST, images, randomize, tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.export import (
    compare_exported,
    load_exported,
    report_path,
    verification,
)
from dmformer_keras.export.preparation import prepare

pytest.importorskip("tensorflow", reason="TFLite conversion needs TensorFlow")
pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")
pytestmark = pytest.mark.backend_independent
TFLITE = Path("model.tflite")


def test_a_wrong_file_is_seen_as_wrong(exported):
    model, path = exported
    other = randomize(tiny_classifier(**TINIEST), seed=1)
    x = images(8, 64, 64, 3)
    assert compare_exported(model, path, x)["relative_error"] < 1e-5
    compared = compare_exported(other, path, x)
    assert compared["relative_error"] > 0.1
    assert compared["relative_difference"] > 0.01
    assert compared["top1_agreement"] < 1.0
    with pytest.raises(DMFormerError, match="the model that it was made from"):
        compare_exported(tiny_classifier(num_classes=4, **TINIEST), path, x)


def test_the_figures_are_what_they_are_called(exported):
    model, path = exported
    x = images(8, 64, 64, 3)
    compared = compare_exported(model, path, x)
    expected, actual = model.predict(x, verbose=0), load_exported(path).predict(x)
    differences = np.abs(expected - actual)
    assert compared["max_difference"] == pytest.approx(differences.max())
    assert compared["mean_difference"] == pytest.approx(differences.mean())
    assert compared["output_range"] == pytest.approx(np.ptp(expected))
    rms = np.sqrt((differences.astype("float64") ** 2).mean())
    assert compared["relative_error"] == pytest.approx(rms / expected.std(), rel=1e-4)


def test_a_file_over_the_tolerance_is_not_kept(exported, tmp_path, unmeasured):
    _, path = exported
    other = prepare(randomize(tiny_classifier(**TINIEST), seed=1), None, fuse=True)
    check = verification.Check.from_arguments(TFLITE, other, True, None, None, None)
    target = tmp_path / "model.tflite"
    target.write_bytes(b"old")

    def export():
        with verification.written_if_right(target, check) as beside:
            beside.write_bytes(path.read_bytes())

    with pytest.raises(DMFormerError, match=r"more than the tolerance 0.001.*top1_agreement"):
        export()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_file_within_it_replaces_the_old_one_with_its_report(exported, tmp_path, measured_here):
    model, path = exported
    check = verification.Check.from_arguments(
        TFLITE, prepare(model, None, fuse=True), True, images(3, 64, 64, 3), 0.01, None
    )
    target = tmp_path / "model.tflite"
    target.write_bytes(b"old")
    with verification.written_if_right(target, check) as beside:
        beside.write_bytes(path.read_bytes())
    report = json.loads(report_path(target).read_text())
    assert report["compared"]["images"] == 3
    assert report["compared"]["origin"] == "given"
    assert set(report["latency_ms"]) >= {"1", str(os.cpu_count())}
    assert sorted(os.listdir(tmp_path)) == ["model.tflite", "model.tflite.report.json"]
    # What is exported without a check has no report: that of another file would mislead.
    with verification.written_if_right(target, None) as beside:
        beside.write_bytes(path.read_bytes())
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_folders_are_replaced_whole(tmp_path):
    for content in ("first", "second"):
        with verification.written_if_right(tmp_path / "saved", None) as beside:
            beside.mkdir()
            (beside / content).write_text(content)
    assert os.listdir(tmp_path / "saved") == ["second"]
    assert os.listdir(tmp_path) == ["saved"]


def test_what_was_there_stays_if_a_file_cannot_be_put_into_place(tmp_path, monkeypatch):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "old").write_text("old")
    replace = os.replace

    def failing(source, target):
        if str(target) == str(tmp_path / "saved") and "new" in str(source):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)

    def export():
        with verification.written_if_right(tmp_path / "saved", None) as beside:
            beside.mkdir()

    with pytest.raises(DMFormerError, match="No space left"):
        export()
    assert (tmp_path / "saved" / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["saved"]


def test_a_model_of_two_files_is_never_half_another(tmp_path, monkeypatch):
    path, replace, seen = tmp_path / "model.xml", os.replace, set()

    def export(content):
        with verification.written_if_right(path, None) as beside:
            beside.write_text(content)
            beside.with_suffix(".bin").write_text(content)

    for crash in range(6):
        export("old")
        moves = iter(range(9))

        def interrupted(*paths, crash=crash, moves=moves):
            if next(moves) >= crash:
                raise KeyboardInterrupt
            replace(*paths)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", interrupted)
            export("new")
        if path.exists():
            assert path.read_text() == path.with_suffix(".bin").read_text()
        seen.add(path.read_text() if path.exists() else None)
    assert seen == {"old", None, "new"}


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    (tmp_path / "model.tflite").mkdir()
    (tmp_path / "served").write_text("")
    for name, suffix in (("model.tflite", ".tflite"), ("served", "")):
        with pytest.raises(DMFormerError, match="choose another"):
            verification.checked_path(tmp_path / name, suffix, "an export")
    with pytest.raises(DMFormerError, match="str or path"):
        verification.checked_path(3, ".tflite", "an export")


def test_maps_are_compared_one_by_one_alike(exported):
    model, path = exported
    x = images(5, 64, 64, 3)
    whole, parts = (compare_exported(model, path, x, batch_size=size) for size in (5, 2))
    assert whole == pytest.approx(parts, rel=1e-3, abs=1e-7)


def test_made_up_images_are_in_the_model_s_own_range(exported):
    model, _ = exported
    for rescales, low, high in ((True, 0, 255), (False, -1, 1)):
        model = tiny_classifier(include_rescaling=rescales, **TINIEST)
        found = verification.Check.from_arguments(
            TFLITE, prepare(model, None, True), True, None, None, None
        )
        assert found.images.min() >= low
        assert found.images.max() <= high
        assert np.ptp(found.images) > 0.5 * (high - low)
