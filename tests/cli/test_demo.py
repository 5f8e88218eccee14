"""`dmformer demo`: what it says of an image, and the page, where gradio is installed."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import images, tiny_backbone, tiny_classifier
from PIL import Image

from dmformer_keras import SemanticFPN
from dmformer_keras.cli import demo, main
from dmformer_keras.errors import DMFormerError

NAMES = list("abcde")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(images(90, 120, 3).astype("uint8")).save(path)
    return path


@pytest.mark.once_under_torch
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


@pytest.mark.once_under_torch
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


@pytest.mark.once_under_torch
def test_a_shipped_model_takes_the_tab_that_nobody_asked_for(tmp_path):
    tiny_classifier(class_names=NAMES).save_to_preset(tmp_path / "tiny")
    name = str(tmp_path / "tiny")
    models = demo.load_models([name])
    assert list(models) == [name, "dmformer_t_camvid"]
    assert [model.count_params() > 1e6 for model in models.values()] == [False, True]
    with pytest.raises(DMFormerError, match="same kind; leave one out"):
        demo.load_models([name, name + "/"])


@pytest.mark.once_under_torch
def test_the_example_is_a_photograph_that_a_model_takes(monkeypatch):
    pytest.importorskip("sklearn")
    assert demo.example_photo().name == "china.jpg"
    assert demo.describe(tiny_classifier(class_names=NAMES), demo.example_photo())[0]
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert demo.example_photo() is None


@pytest.mark.backend_independent
def test_three_models_are_refused_at_once(capsys):
    assert main(["demo", "one", "two", "three"]) == 1
    assert "no more than two models, not 3" in capsys.readouterr().err


@pytest.fixture
def page():
    """The page of two models that are tiny, while it is served, and a client of it."""
    gradio = pytest.importorskip("gradio", reason='needs "dmformer-keras[demo]"')
    from gradio_client import Client

    model = tiny_classifier(class_names=NAMES)
    segmenter = SemanticFPN(tiny_backbone(input_shape=(None, None, 3)), 3, head_channels=8)
    models = {"tiny": model, "streets": segmenter}
    page = demo.make_page(gradio, models, demo.example_photo())
    demo.serve(page)
    yield SimpleNamespace(
        models=models, url=page.local_url, client=Client(page.local_url, verbose=False)
    )
    page.close(verbose=False)


@pytest.mark.backend_independent
def test_the_page_answers(photo, page, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    for name, looked_for, api_name in (
        ("tiny", "b", "/classify"),
        ("streets", "the likeliest", "/segment"),
    ):
        label, picture = page.client.predict(handle_file(photo), looked_for, api_name=api_name)
        sought = None if name == "streets" else looked_for
        expected, shown = demo.describe(page.models[name], photo, sought)
        assert label["label"] == max(expected, key=expected.get)
        assert same(Image.open(picture).convert("RGB"), shown)

    # A bomb of 400 million pixels, and what is no image: one sentence each.
    bomb, text = tmp_path / "bomb.png", tmp_path / "text.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    text.write_text("words")
    for path, sentence in ((bomb, "over the limit of 134,217,728"), (text, "not a JPEG, PNG")):
        with pytest.raises(AppError, match=sentence):
            page.client.predict(handle_file(path), "b", api_name="/classify")


@pytest.mark.backend_independent
def test_the_page_is_this_machine_s_only_and_takes_no_large_files(page):
    def status(path, host, body=None, **headers):
        request = urllib.request.Request(
            page.url + path, body, {"Host": host, **headers}, method="POST" if body else "GET"
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    own = page.url.removeprefix("http://").rstrip("/")
    assert status("", own) == 200
    assert status("", own.replace("127.0.0.1", "localhost")) == 200
    for other in ("attacker.example", "127.0.0.1.attacker.example:7860", "0.0.0.0"):
        assert status("", other) == 400

    def sent(size):
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        body = form + bytes(size) + b"\r\n--x--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        return status("gradio_api/upload", own, body, **kind)

    assert sent(1000) == 200
    assert sent(26 * 2**20) == 413


@pytest.mark.backend_independent
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_ends_the_page_at_once(tmp_path):
    pytest.importorskip("gradio", reason='needs "dmformer-keras[demo]"')
    tiny_classifier(class_names=NAMES).save_to_preset(tmp_path / "tiny")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dmformer_keras.cli",
            "demo",
            str(tmp_path / "tiny"),
            "--no-browser",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    line = process.stdout.readline()
    assert line.startswith("At http://127.0.0.1:"), process.communicate()
    # A browser that has the page open, and waits for what comes.
    address = line.split()[1].rstrip(",").rstrip("/")
    waiting = urllib.request.urlopen(f"{address}/gradio_api/heartbeat/x")
    process.send_signal(signal.SIGINT)
    # A second; without an end of its own it would wait for the browser, and Python look through the
    # objects of all libraries before it ends.
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130, errors
    assert "Interrupted. The page is closed." in errors
    assert "Traceback" not in errors
    waiting.close()
