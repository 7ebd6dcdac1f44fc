"""Ids of the Hugging Face Hub in place of a checkpoint, against a local server."""

import json
import os
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.hub_server import COMMIT, serve
from tests.unit.wav2vec2.interop.test_huggingface import TINY, ctc_content, pretraining_content
from wav2vec2.cli.errors import UserError
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.files import hub as hub_files
from wav2vec2.inference.recogniser import Recogniser, complete_decoding
from wav2vec2.interop import checkpoints, huggingface, release

NAME = "someone/tiny-ctc"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server with a recogniser as NAME, and an empty cache."""
    folder = tmp_path / "served"
    huggingface.write_huggingface(ctc_content(), folder)
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "a.txt"):
        (folder / name).write_bytes(b"not fetched")
    with serve() as server:
        server.folders[NAME] = folder
        use_endpoint(monkeypatch, server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.chdir(tmp_path)
        yield server


def use_endpoint(monkeypatch, endpoint):
    """As HF_ENDPOINT does, which the library reads when it is imported."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def read_back(name):
    content = checkpoints.read_checkpoint(name)
    expected = ctc_content()["model"]
    assert all(torch.equal(content["model"][n], w) for n, w in expected.items())


def refused(name, *parts):
    with pytest.raises(UserError) as caught:
        checkpoints.read_checkpoint(name)
    text = str(caught.value)
    assert text.startswith(str(name)) and "\n" not in text and "/cache/" not in text, text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("name", [NAME, f"{NAME}@main", f"{NAME}@{COMMIT}"])
def test_a_recogniser_by_its_id(hub, name):
    """Only the files that are needed are fetched, and those once."""
    read_back(name)
    wanted = {"config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"}
    assert set(hub.sent) == wanted | {"special_tokens_map.json", "model.safetensors"}
    assert hub.sent[-1] == "model.safetensors"
    hub.sent.clear()
    read_back(name)
    assert hub.sent == []
    assert hub_files.cached_path(name).name == COMMIT


def test_without_network_from_the_cache(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(NAME, "HF_HUB_OFFLINE is set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    read_back(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    read_back(NAME)


def test_an_existing_path_has_precedence(hub, tmp_path):
    shutil.copytree(hub.folders[NAME], tmp_path / NAME)
    read_back(NAME)
    assert hub.sent == []


def test_weights_in_shards(hub):
    """A pre-trained model of two .bin shards, as older repositories have."""
    folder = hub.folders[NAME]
    weights = pretraining_content()["model"]
    shutil.rmtree(folder)
    huggingface.write_huggingface(pretraining_content(), folder)
    theirs = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for number, names in enumerate([list(theirs)[::2], list(theirs)[1::2]]):
        place = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: theirs[name] for name in names}, folder / place)
        places |= dict.fromkeys(names, place)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    content = checkpoints.read_checkpoint(NAME)
    assert all(torch.equal(content["model"][n], w) for n, w in weights.items())


def test_a_release_folder(hub, tmp_path):
    release.write_release(ctc_content(), tmp_path / "release", None)
    hub.folders[NAME] = tmp_path / "release"
    read_back(NAME)


def test_a_language_model_in_the_repository(hub):
    """Fetched where a beam search will use it, not with the weights."""
    folder = hub.folders[NAME]
    (folder / "language_model").mkdir()
    for name in ("5gram.bin", "unigrams.txt", "attrs.json"):
        (folder / "language_model" / name).write_text("{}")
    recogniser = Recogniser.from_checkpoint(NAME, torch.device("cpu"))
    assert not any(name.startswith("language_model") for name in hub.sent)
    complete_decoding(DecodingOptions(), recogniser)
    assert not any(name.startswith("language_model") for name in hub.sent)
    options = complete_decoding(DecodingOptions(decoder="beam"), recogniser)
    assert options.lm == str(hub_files.cached_path(NAME) / "language_model" / "5gram.bin")


def test_the_adapter_of_one_language(hub):
    """Of a repository with several, as MMS has, only that one is fetched."""
    folder = hub.folders[NAME]
    shutil.rmtree(folder)
    architecture = replace(TINY, norm_first=True, adapter_dim=4)
    content = ctc_content(architecture)
    huggingface.write_huggingface(content, folder)
    ids = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({"deu": ids, "eng": ids, "fra": ids}))
    weights = load_file(folder / "model.safetensors")
    own = {n: w + 1 for n, w in weights.items() if ".adapter_layer." in n or "lm_head" in n}
    for code in ("deu", "eng"):
        save_file(own, folder / f"adapter.{code}.safetensors")
        torch.save(own, folder / f"adapter.{code}.bin")
    with pytest.raises(UserError, match=f"{NAME}: has adapters for 3 languages; .* deu eng fra"):
        checkpoints.read_checkpoint(NAME)
    with pytest.raises(UserError, match=f"--language xyz: {NAME} has no adapter for it"):
        checkpoints.read_checkpoint(NAME, language="xyz")
    assert not any(name.endswith("safetensors") for name in hub.sent)
    read = checkpoints.read_checkpoint(NAME, language="deu")
    assert {n for n in hub.sent if "adapter" in n} == {"adapter.deu.safetensors"}
    name = "wav2vec2.encoder.stack.layers.1.adapter.linear_2.weight"
    assert torch.equal(read["model"][name], content["model"][name] + 1)
    assert torch.equal(read["model"]["wav2vec2.mask_emb"], content["model"]["wav2vec2.mask_emb"])
    with pytest.raises(UserError, match=f"{NAME}: has no adapter.fra.safetensors"):
        checkpoints.read_checkpoint(NAME, language="fra")


def test_repositories_that_are_not_given(hub):
    hub.refused["meta/gated"] = "GatedRepo"
    refused("meta/gated", "gated", "hf auth login")
    refused("some/where", "no such path", "no such repository")
    refused(f"{NAME}@v2", "no revision 'v2'")
    refused("a/b--c", "no such")


def test_repositories_without_a_model_that_is_read(hub):
    """Refused before the weights are fetched."""
    folder = hub.folders[NAME]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "whisper"}))
    refused(NAME, f"{NAME}/config.json", "Whisper")
    assert "model.safetensors" not in hub.sent
    (folder / "config.json").unlink()
    shutil.rmtree(hub_files.cached_path(NAME).parents[1])
    refused(NAME, "no wav2vec 2.0 model")


def test_repository_without_weights(hub):
    for name in ("model.safetensors", "pytorch_model.bin"):
        (hub.folders[NAME] / name).unlink()
    refused(NAME, "no weights that can be read here")


def test_no_network(hub, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    refused(NAME, "no such path, and the Hugging Face Hub cannot be read", "HF_HUB_OFFLINE=1")


def test_without_the_library(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(NAME, "needs the Python package huggingface_hub", "install")


@pytest.mark.parametrize(
    "path",
    [
        "https://huggingface.co/someone/tiny-ctc",
        "https://huggingface.co/someone/tiny-ctc/resolve/main/model.safetensors",
        "http://127.0.0.1/someone/tiny-ctc?download=true",
    ],
)
def test_addresses_name_the_id(hub, path):
    refused(path, "an address on the web", f"by its id, such as {NAME}")
    assert hub.sent == []


@pytest.mark.parametrize(
    "path", ["model.pt", "results/wav2vec2_best.pt", "/a/b", "a/b/c", "a b/c", "../a", ".", "a/b@"]
)
def test_paths_are_no_ids(path):
    assert not hub_files.is_hub_id(path)
    if not os.path.exists(path):
        refused(path, "no such checkpoint")
