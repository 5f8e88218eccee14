"""The pictures of a run."""

import pytest

pytest.importorskip("matplotlib")

from dmformer_keras.training import figures

pytestmark = pytest.mark.backend_independent

CHARTS = [("Loss", "loss", {"training": ("loss", 1)})]


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_epochs_are_told_apart_by_whole_numbers(epochs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    history = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, epochs + 1)]
    figures.draw_curves(history, CHARTS, tmp_path / "curves.png")
    axes = drawn[0].axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)
