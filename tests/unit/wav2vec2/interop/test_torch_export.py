"""The exported graph against the model: any batch and length, padded or not."""

import io
import json
import zipfile
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from wav2vec2.audio.decode import normalize
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE, Architecture, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.interop import checkpoints, native, torch_export
from wav2vec2.interop.onnx import write_onnx
from wav2vec2.text.vocabulary import Vocabulary

SMALL = {
    "conv_layers": ((16, 10, 5), (16, 3, 2), (16, 2, 2)),  # 20 samples per frame, 30 for the first
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

# Samples of each row; rows are not sorted by length.
BATCHES = [[50], [1_000], [119], [120], [30, 50], [600, 30, 1_001, 1_000], [9_000, 3_000]]


def content_of(architecture: Architecture) -> dict:
    torch.manual_seed(1)
    model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), len(VOCABULARY))
    return {**native.ctc_content(architecture, VOCABULARY, "ltr"), "model": model.state_dict()}


def worst_difference(content: dict, graph) -> float:
    """The largest difference of valid logits between the model and `graph`.

    The graph takes recordings that are not normalised; padding must not change its result.
    """
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
    torch_export.write_exported(content, path)
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


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_an_archive_is_a_checkpoint(name, tmp_path):
    """Every weight comes back, also one that the graph does not use (the mask vector)."""
    content, path = content_of(ARCHITECTURES[name]), tmp_path / "model.pt2"
    torch_export.write_exported(content, path)
    again = checkpoints.read_checkpoint(path)
    weights, expected = again.pop("model"), content["model"]
    assert again == {name: value for name, value in content.items() if name != "model"}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def rewritten(path, changes: dict) -> None:
    """Replace members of a zip file; None removes one."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            data = changes.get(name.partition("/")[2], data)
            if data is not None:
                file.writestr(name, data)


CONFIG = "data/weights/model_weights_config.json"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("archive") / "model.pt2"
    torch_export.write_exported(content_of(ARCHITECTURES["base"]), path)
    return path.read_bytes()


CASES = ["damaged", "no weights", "no description", "a trap", "out of bounds"]


@pytest.mark.parametrize("case", CASES)
def test_an_archive_that_cannot_be_read(case, archive, tmp_path):
    """The error is one line, and no code in the archive runs."""
    path, trap = tmp_path / "model.pt2", tmp_path / "sprung"
    path.write_bytes(archive)
    message = "a torch.export archive that cannot be read .* export it again"
    if case == "damaged":
        data = bytearray(archive)
        data[10_000] ^= 255  # inside a weight, whose checksum then fails
        path.write_bytes(data)
    elif case == "no weights":
        rewritten(path, {CONFIG: None})
    elif case == "no description":
        rewritten(path, {"extra/recogniser.json": None})
        message = "does not say of what model it is, or damaged; export it again"
    else:
        with zipfile.ZipFile(path) as file:
            name = next(n for n in file.namelist() if n.endswith(CONFIG))
            config = json.loads(file.read(name))
        entry = config["config"]["model.proj.bias"]
        if case == "a trap":
            entry["use_pickle"] = True
            buffer = io.BytesIO()
            torch.save(Trap(trap), buffer)
            changes = {f"data/weights/{entry['path_name']}": buffer.getvalue()}
        else:
            entry["tensor_meta"]["sizes"][0]["as_int"] = 10**6
            message = "damaged, it claims more than it holds .* export it again"
            changes = {}
        rewritten(path, {**changes, CONFIG: json.dumps(config)})
    with pytest.raises(UserError, match=message):
        checkpoints.read_checkpoint(path)
    assert not trap.exists()
    if case == "a trap":  # an unrestricted reader runs it
        with suppress(Exception):
            torch.export.load(path)
        assert trap.exists()


def test_a_description_is_what_the_checkpoint_says():
    """Including the bytes of a sentencepiece model."""
    content = content_of(ARCHITECTURES["base"])
    again = torch_export.parse_description(torch_export.describe(content, "here"), "there")
    assert again == {name: value for name, value in content.items() if name != "model"}
    model = torch.arange(256, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "vocabulary_of", lambda *_: VOCABULARY)
        text = torch_export.describe(content | {"sentencepiece": model}, "here")
    assert torch.equal(torch_export.parse_description(text, "there")["sentencepiece"], model)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"checkpoint": {"sentencepiece": "*"}}', "[" * 9999]
)
def test_a_file_that_describes_no_model(text):
    with pytest.raises(UserError, match="there: does not say of what model it is, or damaged; exp"):
        torch_export.parse_description(text, "there")


def test_standardise_is_our_normalisation():
    torch.manual_seed(3)
    waveform = torch.randn(5_000) * 0.01 + 3.0
    padded = torch.cat([waveform, torch.full((700,), 9.0)])
    result = torch_export.standardise(padded, torch.arange(5_700) < 5_000, 1e-5)
    expected = torch.tensor(normalize(waveform.numpy()))
    torch.testing.assert_close(result[:5_000], expected, rtol=0, atol=1e-3)
    assert not result[5_000:].any()


WRITERS = [(torch_export.write_exported, ".pt2"), (write_onnx, ".onnx")]


@pytest.mark.parametrize("write, suffix", WRITERS)
def test_what_cannot_be_written(write, suffix, tmp_path):
    content = content_of(ARCHITECTURES["base"])
    with pytest.raises(UserError, match=f"need the suffix {suffix}"):
        write(content, tmp_path / "model.bin")
    (tmp_path / f"model{suffix}").touch()
    with pytest.raises(UserError, match="exists already"):
        write(content, tmp_path / f"model{suffix}")


def test_a_pretrained_model_is_no_recogniser(tmp_path):
    content = native.pretraining_content(ARCHITECTURES["base"])
    with pytest.raises(UserError, match="no output layer"):
        torch_export.write_exported(content, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setattr("wav2vec2.interop.onnx.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        write_onnx(content_of(ARCHITECTURES["base"]), tmp_path / "model.onnx", int8=True)
