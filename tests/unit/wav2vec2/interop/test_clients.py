"""Folders for sherpa-onnx and transformers.js: the files beside the graph, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.wav2vec2.interop.test_torch_export import ARCHITECTURES, VOCABULARY, content_of
from wav2vec2.audio.decode import normalize
from wav2vec2.cli.errors import UserError
from wav2vec2.interop import checkpoints, native
from wav2vec2.interop.clients import sherpa_onnx, support, transformers_js
from wav2vec2.interop.torch_export import SampleGraph
from wav2vec2.text.subwords import WORD_START
from wav2vec2.text.vocabulary import WORD_END, Spelling, Vocabulary

VOCABULARIES = {
    "letters": (Vocabulary([*"|ABÜ'"]), "| A B | Ü ' |"),
    "pieces": (Vocabulary(["▁AB", "B", "▁", "Ü"], Spelling.PIECES), "▁AB B ▁ Ü ▁AB"),
    "tokens": (Vocabulary(["tʃ", "a", "|", "ɪ"], Spelling.TOKENS), "tʃ a a ɪ |"),
}


def test_the_page_and_the_note_of_a_run_name_the_same_programs():
    page = Path(__file__).parents[4] / "docs" / "other_programs.md"
    row = r"^\| \[([^]]+)\]\([^|]*\|[^|]*\|[^|]*\| (yes|no) \|"
    rows = dict(re.findall(row, page.read_text(encoding="utf-8"), re.M))
    assert rows == dict.fromkeys(support.WITH_HOURGLASS, "yes") | dict.fromkeys(
        set(support.WITHOUT_HOURGLASS) - {"fairseq"}, "no"
    )
    assert support.hourglass_note(ARCHITECTURES["base"]) == ""
    note = support.hourglass_note(ARCHITECTURES["linear"])
    assert note.startswith("note: hourglass [0,(1,3),1]: onnxruntime, torch.export, ")
    assert "transformers, CTranslate2, fairseq cannot" in note


@pytest.mark.parametrize("name", VOCABULARIES)
def test_tokens_of_sherpa_onnx(name):
    """Joined, with `▁` as a space, they are our words; the blank has its name there."""
    vocabulary, labels = VOCABULARIES[name]
    lines = sherpa_onnx.tokens(vocabulary).splitlines()
    table = {int(row): token for token, row in map(str.split, lines)}
    assert list(table) == list(range(len(vocabulary))) and table[0] == "<blk>"
    text = "".join(table[row] for row in vocabulary.encode(labels)).replace("▁", " ")
    assert " ".join(text.split()) == vocabulary.words(labels.split())


@pytest.mark.parametrize("name", VOCABULARIES)
def test_tokenizer_of_transformers_js(name):
    """The library tokenizers writes the best row of each frame as we do."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary, labels = VOCABULARIES[name]
    delimiter = WORD_END if vocabulary.spelling is Spelling.LETTERS else WORD_START
    text = transformers_js.tokenizer(vocabulary, delimiter)
    tokenizer = tokenizers.Tokenizer.from_str(text)
    frames = [row for unit in vocabulary.encode(labels) for row in (unit, unit, 0)]
    decoded = tokenizer.decode([0, *frames, 1, 2])
    assert " ".join(decoded.split()) == vocabulary.words(labels.split())
    assert tokenizer.decode([3, 0]).strip() == "<unk>"
    assert tokenizer.get_vocab_size() == len(vocabulary)


def test_a_graph_of_samples_is_the_models():
    """Each row counts as a whole recording; a group norm takes what another program normalised."""
    content = content_of(ARCHITECTURES["base"])
    model, _ = native.load_ctc(content, "test")
    graph = SampleGraph(model, ARCHITECTURES["base"]).eval()
    torch.manual_seed(2)
    samples = 0.2 * torch.randn(2, 900) + 0.05
    normalised = torch.stack([torch.tensor(normalize(row.numpy())) for row in samples])
    with torch.no_grad():
        expected = model(samples, torch.tensor([900, 900])).logits
        torch.testing.assert_close(graph(samples), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(graph(normalised), expected, rtol=0, atol=1e-2)


@pytest.fixture
def no_graph(monkeypatch):
    """Folders are written without the graph, which takes long."""
    asked = []

    def graph(content, path, *, normalize):
        asked.append(normalize)
        return b"graph"

    for module in (sherpa_onnx, transformers_js):
        monkeypatch.setattr(module, "graph_of_samples", graph)
        monkeypatch.setattr(module, "with_8_bits", lambda model: b"small")
    return asked


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_folders(name, tmp_path, no_graph):
    content = content_of(ARCHITECTURES[name])
    sherpa_onnx.write_sherpa_onnx(content, tmp_path / "sherpa")
    files = {path.name: path.read_bytes() for path in (tmp_path / "sherpa").iterdir()}
    assert files.keys() == {"model.onnx", "model.int8.onnx", "tokens.txt"}
    assert (files["model.onnx"], files["model.int8.onnx"]) == (b"graph", b"small")

    folder = tmp_path / "js"
    transformers_js.write_transformers_js(content, folder)
    assert (folder / "onnx" / "model_quantized.onnx").read_bytes() == b"small"
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"]) == ("wav2vec2", len(VOCABULARY))
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessor["do_normalize"] is False  # the graph does it
    # sherpa-onnx has normalised already, with our 1e-5.
    assert no_graph == [False, content["architecture"]["normalize_input"]]


def test_another_normalisation_is_made_after_that_of_sherpa_onnx(tmp_path, no_graph):
    content = content_of(replace(ARCHITECTURES["large"], normalize_eps=1e-7))
    sherpa_onnx.write_sherpa_onnx(content, tmp_path / "sherpa")
    assert no_graph == [True]


def test_what_is_refused(tmp_path, no_graph):
    kept = content_of(replace(ARCHITECTURES["large"], normalize_input=False))
    with pytest.raises(UserError, match="sherpa-onnx normalises recordings.* use --to onnx"):
        sherpa_onnx.write_sherpa_onnx(kept, tmp_path / "folder")
    with pytest.MonkeyPatch.context() as patch:
        twice = Vocabulary([*"|ETAA"], repeated=True)
        patch.setattr(native, "vocabulary_of", lambda *_: twice)
        with pytest.raises(UserError, match="two units of its dictionary are written alike"):
            transformers_js.write_transformers_js(kept, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for write in (sherpa_onnx.write_sherpa_onnx, transformers_js.write_transformers_js):
        with pytest.raises(UserError, match="full: exists already and is not empty"):
            write(content_of(ARCHITECTURES["hourglass"]), tmp_path / "full")


@pytest.mark.parametrize("to", ["sherpa_onnx", "transformers_js"])
def test_without_packages_or_without_an_output_layer(to, tmp_path, monkeypatch):
    monkeypatch.setattr("wav2vec2.interop.onnx.find_spec", lambda name: None)
    contents = {
        "ctc": content_of(ARCHITECTURES["base"]),
        "pretrained": {**native.pretraining_content(ARCHITECTURES["base"]), "model": {}},
    }
    expected = {"ctc": "pip install onnx onnxscript onnxruntime", "pretrained": "no output layer"}
    for kind, content in contents.items():
        monkeypatch.setattr(
            checkpoints, "_read_complete", lambda *_, content=content, **__: content
        )
        with pytest.raises(UserError, match=expected[kind]):
            options = checkpoints.ConvertOptions(to=to)
            checkpoints.convert_checkpoint("model.pt", tmp_path / "folder", options)
    assert not list(tmp_path.iterdir())


def test_loud_and_quiet_recordings_are_normalised_alike():
    """What the folder for sherpa-onnx relies on: its normalisation is ours."""
    samples = np.random.default_rng(1).standard_normal(4000).astype(np.float32) * 1e-3 + 0.2
    theirs = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-5)
    np.testing.assert_allclose(normalize(samples), theirs, atol=1e-3)
