"""examples/browser in a real browser: Chromium, driven by its DevTools protocol over a pipe."""

import fcntl
import functools
import html
import http.server
import json
import os
import re
import select
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from exported_files import (
    COLORS,
    NAMES,
    SIZE,
    classifier,
    in_percent,
    onnx,
    outputs_of,
    segmenter,
)

from dmformer_keras import export
from dmformer_keras.data import load_image

BROWSER = Path(__file__).parents[2] / "examples" / "browser"
SECONDS = 60

pytestmark = pytest.mark.backend_independent


@pytest.fixture(scope="module")
def chromium():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no browser: install chromium")
    if not (BROWSER / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no onnxruntime-web: run `npm install` in examples/browser")
    return program


class Page:
    """A page in a headless browser of its own."""

    def __init__(self, program, url, folder):
        self.url = url
        # The browser reads commands from its file 3 and writes answers to 4.
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        given = [fcntl.fcntl(file, fcntl.F_DUPFD, 10) for file in (commands, answers)]
        self.process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$0" "$@" 3<&{given[0]} 4>&{given[1]}', program),
                *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
                f"--user-data-dir={folder}",
            ],
            pass_fds=given,
            stderr=subprocess.DEVNULL,
        )
        for file in (commands, answers, *given):
            os.close(file)
        self.session, self.number, self.unread = None, 0, b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]

    def open(self):
        self.call("Page.navigate", url=self.url)

    def call(self, method, **parameters):
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._next_answer()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next_answer(self):
        while b"\0" not in self.unread:
            assert select.select([self.answers], [], [], SECONDS)[0], "the browser is silent"
            read = os.read(self.answers, 1 << 16)
            assert read, "the browser has ended"
            self.unread += read
        answer, self.unread = self.unread.split(b"\0", 1)
        return json.loads(answer)

    def evaluate(self, expression):
        return self.call("Runtime.evaluate", expression=expression)["result"]

    def wait_for_status(self, pattern):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            status = self.evaluate("document.getElementById('status')?.textContent").get("value")
            if status and re.search(pattern, status):
                return status
            time.sleep(0.1)
        raise AssertionError(f"the page says {status!r}, not {pattern!r}")

    def choose(self, path):
        field = self.evaluate("document.getElementById('file')")["objectId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=field)

    def classes(self):
        """{name: percentage}, in the order shown."""
        rows = self.evaluate("document.getElementById('classes').innerText")["value"]
        found = re.findall(r"([\d.]+) %\s+(\w+)", rows)
        return {name: float(share) for share, name in found}

    def picture(self):
        """Array (height, width, 3), what the canvas shows."""
        pixels = self.evaluate(
            "Array.from(document.getElementById('picture').getContext('2d')"
            f".getImageData(0, 0, {SIZE[1]}, {SIZE[0]}).data).join()"
        )["value"]
        return np.array(pixels.split(","), float).reshape(*SIZE, 4)[..., :3]

    def close(self):
        self.process.terminate()
        self.process.wait(SECONDS)
        os.close(self.commands)
        os.close(self.answers)


@pytest.fixture
def folder(chromium, tmp_path, monkeypatch):
    """A copy of the example without a model, as the current folder."""
    copy = tmp_path / "page"
    shutil.copytree(BROWSER, copy, ignore=shutil.ignore_patterns("node_modules", "model.*"))
    (copy / "node_modules").symlink_to(BROWSER / "node_modules")
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def page(chromium, folder, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = Page(chromium, f"http://127.0.0.1:{server.server_port}/", tmp_path / "profile")
    yield page
    page.close()
    server.shutdown()
    server.server_close()


def write_as_the_page_says(path, monkeypatch):
    """Runs the Python that index.html shows, for a model that is exported already."""
    monkeypatch.setattr(export, "to_onnx", lambda model, output: shutil.copy(path, output))
    shown = re.search("<pre>(.+?)</pre>", Path("index.html").read_text("utf-8"), re.DOTALL)[1]
    exec(html.unescape(shown), {"model": None})


def put_into_page(page, path, photograph, monkeypatch):
    """Opens the page with a model, and chooses a photograph, until its result is shown."""
    write_as_the_page_says(path, monkeypatch)
    page.open()
    page.wait_for_status("is ready")
    page.choose(photograph)
    page.wait_for_status(r"photo\.jpg: \d+ ms")


def assert_same_pixels(shown, expected):
    """Up to what another JPEG decoder and another rounding do."""
    assert np.mean(np.abs(shown - expected).max(-1) <= 2) > 0.99


def test_classes_are_those_of_the_package(page, exported, photograph, monkeypatch):
    path = exported(onnx, classifier)
    put_into_page(page, path, photograph, monkeypatch)
    logits = outputs_of(path, photograph)
    order = np.argsort(-logits)
    shown = page.classes()
    assert list(shown) == [NAMES[index] for index in order]
    np.testing.assert_allclose(list(shown.values()), in_percent(logits)[order], atol=0.5)
    assert_same_pixels(page.picture(), load_image(photograph, SIZE))


@pytest.mark.slow
def test_mask_is_that_of_the_package(page, exported, photograph, monkeypatch):
    path = exported(onnx, segmenter)
    put_into_page(page, path, photograph, monkeypatch)
    mask = outputs_of(path, photograph).argmax(-1)
    assert len(np.unique(mask)) > 1
    shares = 100 * np.bincount(mask.ravel(), minlength=len(NAMES)) / mask.size
    shown = [page.classes().get(name, 0) for name in NAMES]
    np.testing.assert_allclose(shown, shares, atol=0.5)
    # Half of each color is the picture's, half that of the pixel's class.
    expected = (load_image(photograph, SIZE) + np.asarray(COLORS)[mask]) / 2
    assert_same_pixels(page.picture(), expected)


def test_a_page_without_a_model_says_so(page):
    page.open()
    page.wait_for_status("no model.json beside this page")
    assert page.classes() == {}
