"""`dmformer demo`: what it says of an image, and the page, where gradio is installed."""

import sys

import keras
import numpy as np
import pytest
from helpers import images, tiny_backbone, tiny_classifier
from PIL import Image

from dmformer_keras import SemanticFPN
from dmformer_keras.cli import demo, main

NAMES = list("abcde")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(images(90, 120, 3).astype("uint8")).save(path)
    return path


def test_a_classifier_names_and_shows(photo):
    pytest.importorskip("matplotlib")
    keras.utils.set_random_seed(0)
    model = tiny_classifier(class_names=NAMES)
    shares, picture = demo.describe(model, photo)
    assert sorted(shares) == NAMES
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert picture.size == (448, 448)
    likeliest, other = max(shares, key=shares.get), min(shares, key=shares.get)
    assert same(demo.describe(model, photo, likeliest)[1], picture)
    assert not same(demo.describe(model, photo, other)[1], picture)


def test_a_segmenter_names_the_pixels(photo):
    model = SemanticFPN(tiny_backbone(input_shape=(None, None, 3)), 3, head_channels=8)
    shares, picture = demo.describe(model, photo)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert set(shares) <= set("012")
    assert picture.width >= 120


def same(picture, other):
    return np.array_equal(np.asarray(picture), np.asarray(other))


@pytest.mark.backend_independent
def test_gradio_is_asked_for(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "dmformer_n_imagenette"]) == 1
    assert "dmformer-keras[demo]" in capsys.readouterr().err


@pytest.mark.backend_independent
def test_the_page_answers(photo):
    gradio = pytest.importorskip("gradio", reason='needs "dmformer-keras[demo]"')
    from gradio_client import Client, handle_file

    model = tiny_classifier(class_names=NAMES)
    page = demo.make_page(gradio, model, "tiny")
    page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        client = Client(page.local_url, verbose=False)
        label, picture = client.predict(handle_file(photo), "b", api_name="/shown")
        expected, shown = demo.describe(model, photo, "b")
        assert label["label"] == max(expected, key=expected.get)
        assert same(Image.open(picture).convert("RGB"), shown)
    finally:
        page.close()
