"""kill -9 while something is written: what is there is whole, and the next run ends as ever."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import run_python
from hub_server import serving

from dmformer_keras.training import load_classifier

pytestmark = [
    pytest.mark.slow(on=["jax"]),
    pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL"),
]

# One process imports everything, and its children are killed at random moments.
WRITERS = """
import itertools, os, random, signal, sys, time
from pathlib import Path

from dmformer_keras.export.verification import written_if_right
from dmformer_keras.system.files import written_whole

SIZE = 2**20
seed = random.randrange(2**32)
print("seed", seed, file=sys.stderr)
moments = random.Random(seed)

def write_file(path, value):
    with written_whole(path) as beside:
        beside.write_bytes(value * SIZE)

def export_file(path, value):
    with written_if_right(path, None) as beside:
        beside.write_bytes(value * SIZE)

def export_folder(path, value):
    with written_if_right(path, None) as beside:
        beside.mkdir()
        for name in "abc":
            (beside / name).write_bytes(value * SIZE)

def check(path):
    paths = [path / name for name in "abc"] if path.is_dir() else [path]
    contents = [one.read_bytes() for one in paths if path.exists()]
    assert {len(one) for one in contents} <= {SIZE}, path
    assert len({byte for one in contents for byte in set(one)}) <= 1, path

kept = 0
for name, write in (("a.txt", write_file), ("a.onnx", export_file), ("served", export_folder)):
    for _ in range(12):
        child = os.fork()
        if child == 0:
            for number in itertools.count():
                write(Path(name), bytes([number % 250]))
        time.sleep(moments.uniform(0.001, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check(Path(name))
        kept += Path(name).exists()
print(kept)
"""


@pytest.mark.once_under_torch
def test_files_are_whole_whenever_their_writer_is_killed(tmp_path):
    path = os.pathsep.join([os.path.dirname(os.path.dirname(os.path.dirname(__file__))), *sys.path])
    assert int(run_python(WRITERS, folder=tmp_path, PYTHONPATH=path).split()[-1]) > 6


def killed_at_random(arguments, check, kills=3, **environment):
    """Runs a command to its end, then kills it at random moments; checks after each."""
    environment = {**os.environ, **environment}

    def start():
        command = [sys.executable, "-m", "dmformer_keras.cli", *map(str, arguments)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    began = time.monotonic()
    process = start()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    duration = time.monotonic() - began
    check()
    rng = np.random.default_rng()
    for _ in range(kills):
        process = start()
        try:
            process.communicate(timeout=duration * rng.uniform(0.4, 1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        check()


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_the_old_file(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    from dmformer_keras.export import load_exported

    path = tmp_path / "model.onnx"
    images = np.zeros((1, 32, 32, 3), "float32")
    outputs = []

    def check():
        outputs.append(load_exported(path).predict_on_batch(images))
        np.testing.assert_allclose(outputs[-1], outputs[0], atol=1e-5)
        assert json.loads((tmp_path / "model.onnx.report.json").read_text())["file"] == path.name

    killed_at_random(["export", trained, "--output", path], check)


@pytest.mark.slow
def test_a_package_that_is_killed_is_whole_or_absent(trained, pictures, tmp_path):
    output = tmp_path / "packaged"
    missing = []

    def check():
        missing.append(not output.exists())
        if not missing[-1]:
            assert (output / "README.md").read_text().startswith("# packaged")
            load_classifier(output)
            output.rename(tmp_path / f"packaged {len(missing)}")  # for the next one to be made

    killed_at_random(["package", trained, "--output", output, "--data", pictures], check)
    assert not missing[0]


@pytest.mark.slow
def test_an_upload_that_is_killed_is_whole_or_absent(trained, tmp_path):
    pytest.importorskip("huggingface_hub")
    with serving() as server:
        sent = []

        def check():
            sent.append(dict(server.repositories.get("me/tiny", {})))
            assert not sent[-1] or sent[-1].keys() == sent[0].keys()
            server.repositories.pop("me/tiny", None)

        killed_at_random(
            ["upload", trained, "hf://me/tiny"],
            check,
            HF_ENDPOINT=server.address,
            HF_HOME=str(tmp_path / "cache"),
            HF_TOKEN="secret",
            HF_HUB_DISABLE_XET="1",
        )
        assert "model.weights.h5" in sent[0]
