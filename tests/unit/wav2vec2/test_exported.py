"""The exported graph against the model: any batch and length, padded or not."""

import json
from dataclasses import replace

import pytest
import torch

from common.audio import normalize
from common.errors import UserError
from common.vocabulary import Vocabulary
from wav2vec2.config import BASE, LARGE, Architecture, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.interop import exported, native
from wav2vec2.interop.onnx import write_onnx

SMALL = {
    "conv_layers": ((16, 10, 5), (16, 3, 2), (16, 2, 2)),  # 20 samples a frame, 30 for the first
    "dim": 24,
    "ffn_dim": 48,
    "heads": 2,
    "layers": 2,
    "position_kernel": 16,
    "position_groups": 2,
}
ARCHITECTURES = {
    "base": replace(BASE, **SMALL),
    "large": replace(LARGE, **SMALL),
    "hourglass": replace(
        BASE, **{**SMALL, "layers": 3}, normalize_input=True, hourglass=Hourglass(1, 1, 4, 1)
    ),
    "linear": replace(LARGE, **SMALL, hourglass=Hourglass(0, 1, 3, 1, "linear")),
}
VOCABULARY = Vocabulary([*"|ETAÜ"])

# Samples of each row; the last of a batch need not be the shortest, nor the first the longest.
BATCHES = [[50], [1_000], [119], [120], [30, 50], [600, 30, 1_001, 1_000], [9_000, 3_000]]


def content_of(architecture: Architecture) -> dict:
    torch.manual_seed(1)
    model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), len(VOCABULARY))
    return {**native.ctc_content(architecture, VOCABULARY, "ltr"), "model": model.state_dict()}


def worst_difference(content: dict, graph) -> float:
    """Largest difference of valid logits between the model and `graph`, which takes recordings as
    they are and must not look behind their ends."""
    model, _ = native.load_ctc(content, "test")
    normalised = content["architecture"]["normalize_input"]
    torch.manual_seed(2)
    worst = 0.0
    for samples in BATCHES:
        lengths = torch.tensor(samples)
        waveforms = 0.2 * torch.randn(len(samples), max(samples)) + 0.05
        prepared = torch.zeros_like(waveforms)
        for row, n in enumerate(samples):
            own = waveforms[row, :n]
            prepared[row, :n] = torch.tensor(normalize(own.numpy())) if normalised else own
        with torch.no_grad():
            expected = model(prepared, lengths)
            logits, counts = graph(waveforms, lengths)
        assert torch.equal(counts, expected.frame_lengths)
        assert logits.shape == expected.logits.shape
        for row, count in enumerate(counts):
            difference = logits[row, :count] - expected.logits[row, :count]
            worst = max(worst, float(difference.abs().max()))
    return worst


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_archive(name, tmp_path):
    content = content_of(ARCHITECTURES[name])
    path = tmp_path / "model.pt2"
    exported.write_exported(content, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    extra = {"recogniser.json": ""}
    graph = torch.export.load(path, extra_files=extra).module()
    assert worst_difference(content, graph) <= 1e-4
    assert json.loads(extra["recogniser.json"]) == {
        "sample_rate": 16_000,
        "units": list(VOCABULARY.symbols),
        "blank": 0,
        "spelling": "letters",
        "shortest_row": 30,
        "shortest_batch": 50,
        "checkpoint": {name: content[name] for name in content if name != "model"},
    }


def test_a_description_is_what_the_checkpoint_says():
    """A sentencepiece model's bytes included."""
    content = content_of(ARCHITECTURES["base"])
    again = exported.described(exported.describe(content, "here"), "there")
    assert again == {name: value for name, value in content.items() if name != "model"}
    model = torch.arange(256, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "vocabulary_of", lambda *_: VOCABULARY)
        text = exported.describe(content | {"sentencepiece": model}, "here")
    assert torch.equal(exported.described(text, "there")["sentencepiece"], model)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"checkpoint": {"sentencepiece": "*"}}', "[" * 9999]
)
def test_a_file_that_describes_no_model(text):
    with pytest.raises(UserError, match="there: does not say of what model it is; export it"):
        exported.described(text, "there")


def test_standardise_is_our_normalisation():
    torch.manual_seed(3)
    waveform = torch.randn(5_000) * 0.01 + 3.0
    padded = torch.cat([waveform, torch.full((700,), 9.0)])
    result = exported.standardise(padded, torch.arange(5_700) < 5_000, 1e-5)
    expected = torch.tensor(normalize(waveform.numpy()))
    torch.testing.assert_close(result[:5_000], expected, rtol=0, atol=1e-3)
    assert not result[5_000:].any()


WRITERS = [(exported.write_exported, ".pt2"), (write_onnx, ".onnx")]


@pytest.mark.parametrize("write, suffix", WRITERS)
def test_what_cannot_be_written(write, suffix, tmp_path):
    content = content_of(ARCHITECTURES["base"])
    with pytest.raises(UserError, match=f"name it something{suffix}"):
        write(content, tmp_path / "model.bin")
    (tmp_path / f"model{suffix}").touch()
    with pytest.raises(UserError, match="exists already"):
        write(content, tmp_path / f"model{suffix}")


def test_a_pretrained_model_is_no_recogniser(tmp_path):
    content = native.pretraining_content(ARCHITECTURES["base"])
    with pytest.raises(UserError, match="no output layer"):
        exported.write_exported(content, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setattr("wav2vec2.interop.onnx.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        write_onnx(content_of(ARCHITECTURES["base"]), tmp_path / "model.onnx", int8=True)
