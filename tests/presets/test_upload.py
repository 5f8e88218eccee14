"""What goes up to the Hub, and what never does; what a card makes of names from elsewhere."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.presets import model_card, read_preset, upload, upload_preset
from dmformer_keras.presets.markdown import code, escaped, fenced
from dmformer_keras.system.secrets import without_secrets

pytestmark = pytest.mark.once_under_torch

TOKEN = "hf_" + "x" * 34
COMMAND = f"dmformer train --data https://me:{TOKEN}@there/x.zip --hub-token 'a b' --epochs 2"


@pytest.fixture
def sent(monkeypatch):
    """What the Hub's client was asked to do, in order; files by name."""
    errors = pytest.importorskip("huggingface_hub.errors", reason='needs "[hub]"')
    told = []

    class Api:
        def create_repo(self, repository, **options):
            told.append("create")
            return f"https://there/{repository}"

        def upload_folder(self, *, folder_path, **options):
            told.append({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})

    monkeypatch.setattr(upload, "hub_library", lambda: SimpleNamespace(HfApi=Api, errors=errors))
    return told


@pytest.fixture
def preset(tmp_path):
    folder = tmp_path / "preset"
    model = tiny_classifier(2, class_names=["cat", "dog"])
    model.save_to_preset(folder, description="Cats.", command=COMMAND)
    return folder


def test_no_token_is_published(sent, preset):
    (preset / "README.md").write_text(f"# Mine\n\nMade by {COMMAND}; a token mixer.\n")
    upload_preset("hf://me/tiny", preset)
    published = b"".join(sent[-1].values())
    assert TOKEN.encode() not in published
    assert b"a b'" not in published
    assert b"a token mixer" in published
    metadata = json.loads(sent[-1]["metadata.json"])
    assert metadata["command"] == (
        "dmformer train --data https://***@there/x.zip --hub-token *** --epochs 2"
    )
    assert TOKEN in (preset / "metadata.json").read_text()  # which is the user's own


def test_tokens_and_only_these_are_left_out():
    harmless = "dmformer train --data tokens/ --tokens 3 --preset t2t_vit; password and token sizes"
    assert without_secrets(harmless) == harmless
    for secret in (TOKEN, "ghp_" + "a" * 36, "sk-" + "b" * 30, "AKIA" + "C" * 16):
        assert without_secrets(f"--x {secret} y") == "--x *** y"
    assert without_secrets("s3://b/x?api_key=abc&n=1") == "s3://b/x?api_key=***&n=1"
    assert without_secrets("hf://me/tiny@v1") == "hf://me/tiny@v1"


def test_links_and_pipes_are_not_published(sent, preset, tmp_path):
    (tmp_path / "private.md").write_text("private")
    readme = preset / "README.md"
    readme.symlink_to(tmp_path / "private.md")
    with pytest.raises(DMFormerError, match=r"README.md' is a link to a file elsewhere"):
        upload_preset("hf://me/tiny", preset)
    readme.unlink()
    readme.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DMFormerError, match="a link to a file elsewhere"):
        upload_preset("hf://me/tiny", preset)
    readme.unlink()
    os.mkfifo(preset / "history.csv")
    with pytest.raises(DMFormerError, match=r"history.csv' is no regular file"):
        upload_preset("hf://me/tiny", preset)
    assert sent == []


def test_what_goes_up_is_listed_before(sent, preset):
    (preset / "secret.txt").write_text("not of the preset")
    upload_preset("hf://me/tiny", preset, say=sent.append)
    listed, create, files = sent
    assert create == "create"
    assert listed.startswith(f"These {len(files)} files go to hf://me/tiny:")
    for name, content in files.items():
        assert f"  {name}  {len(content):,} bytes" in listed
    assert "secret.txt" not in files


def test_a_card_escapes_what_it_quotes(tmp_path):
    names = ["a`b|c", "<img src=x onerror=alert(1)>", "```\n# big", "[x](http://y)", "plain_name"]
    folder = tmp_path / "a"
    tiny_classifier(5, class_names=[" ".join(name.split()) for name in names]).save_to_preset(
        folder, description="A <b>bold</b>\n# claim", command="x\n```\n# y | z"
    )
    card = model_card(read_preset(folder), "me/tiny")
    body = card.split("---\n", 2)[2]
    assert "\\<b\\>bold\\</b\\> # claim" in body
    assert body.count("\n# ") == 1  # its own heading
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    for row in rows[1:]:
        assert len(re.findall(r"(?<!\\)\|", row)) == 3
    # Nothing of the names stands outside of code.
    assert "<img" not in re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body)


def test_text_stays_text_in_markdown():
    assert escaped("snow_leopard *x* _y_ <z>\n# a") == (r"snow_leopard \*x\* \_y\_ \<z\> # a")
    assert code("plain") == "`plain`"
    assert code("`a` | b") == r"`` `a` \| b ``"
    assert fenced("x\n```\ny", "sh") == "````sh\nx\n```\ny\n````"
