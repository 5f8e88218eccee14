"""Presets on the Hugging Face Hub, against a stand-in on this machine, and in Kaggle's cache."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import array, images, run_python, tiny_classifier
from hub_server import serving

from dmformer_keras import DMFormerClassifier, DMFormerError
from dmformer_keras.hub import download_preset, upload_preset

pytestmark = [
    pytest.mark.once_under_torch,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ["huggingface_hub", "kagglehub", "keras_hub"])),
        reason='needs "dmformer-keras[hub,keras-hub]"',
    ),
]

PREPARE = """
import json, numpy as np, sys
from dmformer_keras import DMFormerBackbone, DMFormerClassifier, DMFormerError
from dmformer_keras.cli import main
from dmformer_keras.hub import download_preset, upload_preset

x = np.load("x.npy")
told = {}
def outputs(name):
    return np.asarray(DMFormerClassifier.from_preset(name).predict(x, verbose=0)).tolist()
def refusal(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except DMFormerError as error:
        return str(error)
"""

ONLINE = """
told["address"] = upload_preset("hf://me/tiny", "given", licence="apache-2.0")
told["outputs"] = outputs("hf://me/tiny")
told["again"] = outputs("hf://me/tiny")
told["backbone"] = DMFormerBackbone.from_preset("hf://me/tiny").count_params()
import keras_hub
classifier = keras_hub.models.ImageClassifier.from_preset("hf://me/tiny")
told["keras_hub"] = np.asarray(classifier.predict(x, verbose=0)).tolist()
keras_hub.layers.ImageConverter.from_preset("hf://me/in-part")  # fetches what it needs only
import huggingface_hub
for file in ("config.json", "metadata.json", "model.weights.h5"):
    huggingface_hub.hf_hub_download("me/headless", file)
told["exit code"] = main(["upload", "given", "hf://me/by-command", "--private"])
told["at main"] = outputs("hf://me/tiny@main")
told["at another"] = refusal(outputs, "hf://me/tiny@v1")
told["missing"] = refusal(outputs, "hf://me/nothing")
told["no preset"] = refusal(outputs, "hf://me/other")
told["altered"] = refusal(outputs, "hf://me/altered")
print(json.dumps(told))
"""

OFFLINE = """
told["in part"] = refusal(DMFormerBackbone.from_preset, "hf://me/in-part")
told["backbone only"] = refusal(outputs, "hf://me/headless")
told["not sent"] = refusal(upload_preset, "hf://me/tiny", "given")
told["outputs"] = outputs("hf://me/tiny")
told["missing"] = refusal(outputs, "hf://me/nothing")
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """What processes told, what the server was asked for and holds, the outputs before."""
    folder = tmp_path_factory.mktemp("hub")
    model = tiny_classifier(class_names=list("abcde"))
    model.save_to_preset(folder / "given", description="Stripes.")
    (folder / "given" / "secret.txt").write_text("not of the preset")
    x = images(2, 64, 64, 3)
    np.save(folder / "x.npy", x)
    with serving() as server:
        server.repositories["me/other"] = {"README.md": b"no preset"}
        files = {path.name: path.read_bytes() for path in (folder / "given").iterdir()}
        server.repositories |= {"me/in-part": files, "me/headless": files}
        weights = bytearray(files["model.weights.h5"])
        weights[-1] ^= 1
        server.repositories["me/altered"] = {**files, "model.weights.h5": bytes(weights)}
        # The line is cut once within the first file that is larger than this.
        server.cut_after = 50_000
        environment = {
            "HF_ENDPOINT": server.address, "HF_HOME": str(folder / "cache"), "HF_TOKEN": "secret",
            "HF_HUB_DISABLE_XET": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        }  # fmt: skip

        def told(code, **more):
            lines = run_python(PREPARE + code, folder=folder, **environment, **more)
            return json.loads(lines.splitlines()[-1])

        online = told(ONLINE)
        asked = list(server.requests)
        server.requests.clear()
        offline = told(OFFLINE, HF_HUB_OFFLINE="1")
        assert not server.requests
    return SimpleNamespace(
        online=online,
        offline=offline,
        asked=asked,
        repositories=server.repositories,
        was_cut=server.cut_after is None,
        outputs=array(model(x)),
    )


def test_what_is_uploaded_is_what_is_loaded(hub):
    assert hub.online["outputs"] == pytest.approx(hub.outputs, abs=1e-5)
    assert hub.online["address"].endswith("/me/tiny")
    assert set(hub.repositories["me/tiny"]) == {
        "README.md", "config.json", "image_converter.json", "metadata.json",
        "model.weights.h5", "task.json", "task.weights.h5",
    }  # fmt: skip
    assert hub.repositories["me/by-command"].keys() == hub.repositories["me/tiny"].keys()
    assert hub.online["backbone"] > 10_000


def test_keras_hub_takes_it_from_the_hub(hub):
    assert hub.online["keras_hub"] == pytest.approx(hub.outputs, abs=1e-4)


def test_a_revision_is_asked_for(hub):
    assert hub.online["at main"] == hub.online["outputs"]
    assert "There is no hf://me/tiny@v1 on the Hub" in hub.online["at another"]


def test_what_others_have_fetched_a_part_of_is_refused(hub):
    assert "metadata.json is missing, there or in the cache" in hub.offline["in part"]
    assert "hf://me/headless is incomplete: task.json is missing" in hub.offline["backbone only"]


def test_without_a_network_nothing_is_uploaded(hub):
    assert "The Hub refused or did not answer for hf://me/tiny" in hub.offline["not sent"]


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_damaged_preset_is_not_uploaded(damage, tmp_path):
    tiny_classifier().save_to_preset(tmp_path)
    if damage == "missing":
        (tmp_path / "model.weights.h5").unlink()
    else:
        (tmp_path / "task.weights.h5").write_bytes(b"other")
    with pytest.raises(DMFormerError, match=damage):
        upload_preset("hf://me/tiny", tmp_path)


def test_a_licence_is_not_left_out(tmp_path):
    tiny_classifier().save_to_preset(tmp_path)
    (tmp_path / "README.md").write_text("---\ntags: []\n---\n# Mine\n")
    with pytest.raises(DMFormerError, match="put the licence there"):
        upload_preset("hf://me/tiny", tmp_path, licence="apache-2.0")


def test_the_card_is_made_of_the_metadata(hub):
    card = hub.repositories["me/tiny"]["README.md"].decode()
    header, _, body = card.removeprefix("---\n").partition("---\n")
    assert 'pipeline_tag: "image-classification"' in header
    assert 'license: "apache-2.0"' in header
    assert 'DMFormerClassifier.from_preset("hf://me/tiny")' in body
    assert "Stripes." in body


def test_a_download_that_was_cut_goes_on(hub):
    assert hub.was_cut
    weights = [
        path
        for method, path in hub.asked
        if method == "GET" and path.startswith("/me/tiny/") and path.endswith("model.weights.h5")
    ]
    assert len(weights) == 2  # what was missing was asked for once more


def test_the_cache_serves_again_and_without_a_network(hub):
    assert hub.online["again"] == hub.online["outputs"]
    assert hub.offline["outputs"] == pytest.approx(hub.outputs, abs=1e-5)
    assert "network" in hub.offline["missing"]


def test_what_is_wrong_is_said(hub):
    assert "There is no hf://me/nothing on the Hub" in hub.online["missing"]
    assert "holds no preset" in hub.online["no preset"]
    assert "SHA-256" in hub.online["altered"]


@pytest.fixture
def on_kaggle(tmp_path, monkeypatch):
    """A model, and the address of its preset in kagglehub's cache; nothing is fetched."""
    from kagglehub import cache
    from kagglehub.handle import parse_model_handle

    # Where nobody answers: what is not in the cache fails at once.
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    model = tiny_classifier(class_names=list("abcde"))
    kept, handle = cache.Cache(), parse_model_handle("me/tiny/keras/base/1")
    folder = kept.get_path(handle)
    model.save_to_preset(folder)
    kept.mark_as_complete(handle)
    for path in Path(folder).iterdir():
        kept.mark_as_complete(handle, path.name)  # KerasHub fetches one file at a time
    return model, "kaggle://me/tiny/keras/base/1"


def test_a_preset_comes_from_kaggle(on_kaggle):
    model, address = on_kaggle
    x = images(2, 64, 64, 3)
    loaded = DMFormerClassifier.from_preset(address)
    np.testing.assert_allclose(array(loaded(x)), array(model(x)), atol=1e-5)
    assert loaded.class_names == list("abcde")


def test_keras_hub_takes_it_from_kaggle(on_kaggle):
    import keras_hub

    model, address = on_kaggle
    x = images(2, 64, 64, 3)
    for cls in (keras_hub.models.ImageClassifier, keras_hub.models.DMFormerImageClassifier):
        loaded = cls.from_preset(address)
        np.testing.assert_allclose(loaded.predict(x, verbose=0), array(model(x)), atol=1e-4)
    backbone = keras_hub.models.DMFormerBackbone.from_preset(address)
    np.testing.assert_allclose(array(backbone(x)), array(model.backbone(x)), atol=1e-5)


def test_what_kaggle_does_not_give_is_said(on_kaggle):
    with pytest.raises(
        DMFormerError, match=r"Kaggle did not give kaggle://me/tiny/keras/base/2 \("
    ):
        download_preset("kaggle://me/tiny/keras/base/2")
    with pytest.raises(
        DMFormerError, match=r'keras_hub.upload_preset\("kaggle://me/new/keras/a", FOLDER'
    ):
        upload_preset("kaggle://me/new/keras/a", "dmformer_t_imagenette")


@pytest.mark.parametrize(
    "name", ["kaggle://", "kaggle://me/tiny", "kaggle://a/b/keras/d/0", "kaggle://a/../c/d"]
)
def test_an_address_that_is_none_on_kaggle_is_refused(name):
    with pytest.raises(DMFormerError, match="no address on Kaggle"):
        download_preset(name)


@pytest.mark.parametrize(
    "name", ["hf://", "hf://user", "hf://a/b/c", "user/repository", "hf://a/b@../../x"]
)
def test_an_address_that_is_none_is_refused(name):
    with pytest.raises(DMFormerError, match="no address on the Hub"):
        download_preset(name)


def test_only_a_preset_with_weights_is_uploaded(tmp_path):
    with pytest.raises(DMFormerError, match="no weights"):
        upload_preset("hf://me/tiny", "dmformer_n")
    with pytest.raises(DMFormerError, match="leave out the revision"):
        upload_preset("hf://me/tiny@main", "dmformer_t_imagenette")


def test_the_library_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DMFormerError, match=r"dmformer-keras\[hub\]"):
        download_preset("hf://me/tiny")
