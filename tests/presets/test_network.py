"""What the Hub's client meets on bad days, in whatever version: each ends in one sentence."""

import importlib.util
import json
from pathlib import Path

import pytest
from helpers import run_python, tiny_classifier
from hub_server import serving

pytestmark = [
    pytest.mark.once_under_jax,
    pytest.mark.skipif(
        not importlib.util.find_spec("huggingface_hub"), reason='needs "dmformer-keras[hub]"'
    ),
]

MOODS = ("gone", "gone in the middle", "redirects", "elsewhere", "broken", "large", "down")
TRY = """
import json
from dmformer_keras import DMFormerError
from dmformer_keras.hub import download_preset, upload_preset

told = {}
for mood in json.loads(MOODS):
    address = "hf://me/" + mood.replace(" ", "-")
    for function, arguments in ((download_preset, ()), (upload_preset, ("given",))):
        try:
            function(address, *arguments)
        except DMFormerError as error:
            told[f"{function.__name__} {mood}"] = str(error)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """{function and mood: the sentence}."""
    folder = tmp_path_factory.mktemp("network")
    tiny_classifier().save_to_preset(folder / "given")
    with serving() as server:
        files = {path.name: path.read_bytes() for path in (folder / "given").iterdir()}
        for mood in MOODS[:-1]:
            name = f"me/{mood.replace(' ', '-')}"
            server.repositories[name], server.moods[name] = files, mood
        server.moods.pop("me/large")
        server.sizes["config.json"] = 10**12
        environment = {
            "HF_ENDPOINT": server.address, "HF_HOME": str(folder / "cache"), "HF_TOKEN": "secret",
            "HF_HUB_DISABLE_XET": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        }  # fmt: skip
        code = f"MOODS = {json.dumps(MOODS[:-1])!r}\n{TRY}"
        lines = run_python(code, folder=folder, **environment)
    environment["HF_ENDPOINT"] = server.address  # where nobody answers any more
    code = f"MOODS = {json.dumps(MOODS[-1:])!r}\n{TRY}"
    more = run_python(code, folder=folder, **environment)
    assert not list(Path(folder / "cache").rglob("model.weights.h5"))
    return json.loads(lines.splitlines()[-1]) | json.loads(more.splitlines()[-1])


@pytest.mark.parametrize("mood", [mood for mood in MOODS if mood != "large"])
def test_what_happens_on_the_way_down_is_stated(told, mood):
    sentence = told[f"download_preset {mood}"]
    assert f"hf://me/{mood.replace(' ', '-')}" in sentence
    assert "network" in sentence
    assert len(sentence) <= 400
    assert "\n" not in sentence


@pytest.mark.parametrize("mood", ["gone", "redirects", "elsewhere", "broken", "down"])
def test_what_happens_on_the_way_up_is_stated(told, mood):
    sentence = told[f"upload_preset {mood}"]
    assert f"The Hub refused or did not answer for hf://me/{mood}" in sentence
    assert len(sentence) <= 400
    assert "\n" not in sentence
    assert "secret" not in sentence


def test_what_is_too_large_is_not_fetched(told):
    assert (
        "config.json of hf://me/large has 1,000,000,000,000 bytes" in told["download_preset large"]
    )
