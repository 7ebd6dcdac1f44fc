"""ONNX files in onnxruntime, compared with the model."""

import json
from dataclasses import replace

import pytest
import torch

from tests.unit.wav2vec2.interop.test_torch_export import (
    ARCHITECTURES,
    VOCABULARY,
    content_of,
    worst_difference,
)
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Hourglass
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.inference.recogniser import Recogniser
from wav2vec2.interop import checkpoints, native
from wav2vec2.interop.onnx import (
    OnnxRecogniser,
    graph_of_samples,
    is_onnx,
    with_8_bits,
    write_onnx,
)

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def graph_of(session):
    def run(waveforms, lengths):
        inputs = {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()}
        return [torch.tensor(output) for output in session.run(None, inputs)]

    return run


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_onnx(name, tmp_path, capfd):
    """One file per model: writing it takes longer than the tests."""
    content = content_of(ARCHITECTURES[name])
    path = tmp_path / "model.onnx"
    write_onnx(content, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")
    session = session_of(path)
    assert [output.name for output in session.get_outputs()] == ["logits", "frame_lengths"]
    about = json.loads(session.get_modelmeta().custom_metadata_map["recogniser.json"])
    assert about["units"] == list(VOCABULARY.symbols)
    assert worst_difference(content, graph_of(session)) <= 1e-3
    in_the_models_place(content, path)
    if not content["architecture"]["normalize_input"]:
        a_single_frame(content, path)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_graph_of_an_elastic_model_has_one_factor(factor, tmp_path):
    """Equal to the model at that factor; inference refuses another."""
    elastic = replace(ARCHITECTURES["hourglass"], hourglass=Hourglass.parse("[1,(1,2:3),1]"))
    content = content_of(elastic)
    save_checkpoint(tmp_path / "model.pt", content)
    path = tmp_path / "model.onnx"
    options = checkpoints.ConvertOptions(to="onnx", factor=factor)
    checkpoints.convert_checkpoint(str(tmp_path / "model.pt"), path, options)
    expected, _ = native.at_factor(content, factor, "model.pt")
    assert worst_difference(expected, graph_of(session_of(path))) <= 1e-3
    cpu = torch.device("cpu")
    assert Recogniser.from_checkpoint(str(path), cpu).shortening == factor
    with pytest.raises(UserError, match="--factor 4: .*onnx has the pooling factor it was written"):
        Recogniser.from_checkpoint(str(path), cpu, factor=4)


def in_the_models_place(content, path):
    """Frames, logits and the description of the checkpoint."""
    assert is_onnx(path)
    found = OnnxRecogniser(path)
    assert found.content == {key: value for key, value in content.items() if key != "model"}
    model, _ = native.load_ctc(content, "test")
    assert worst_difference(content, lambda *inputs: vars(found(*inputs)).values()) <= 1e-3
    assert torch.equal(found.frames(torch.arange(99)), model.frames(torch.arange(99)))


def a_single_frame(content, path):
    """The graph needs two frames; zeros are appended."""
    model, _ = native.load_ctc(content, "test")
    samples = next(n for n in range(1, 1000) if model.frames(torch.tensor([n])) == 1)
    waveform, lengths = torch.randn(1, samples), torch.tensor([samples])
    with torch.no_grad():
        expected = model(waveform, lengths)
    found = OnnxRecogniser(path)(waveform, lengths)
    assert found.frame_lengths.tolist() == expected.frame_lengths.tolist() == [1]
    torch.testing.assert_close(found.logits[:, :1], expected.logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["large", "linear"])
def test_a_graph_without_lengths(name, tmp_path, monkeypatch):
    """The files for sherpa-onnx and transformers.js: rows run one by one, whatever the padding."""
    content = content_of(ARCHITECTURES[name])
    path = tmp_path / "model.onnx"
    model = graph_of_samples(content, path, normalize=True)
    path.write_bytes(model)
    found = OnnxRecogniser(path)
    assert found.content == {key: value for key, value in content.items() if key != "model"}
    rows = [[50], [119], [600, 50, 1_001, 1_000]]  # of two frames or more
    monkeypatch.setattr("tests.unit.wav2vec2.interop.test_torch_export.BATCHES", rows)
    assert worst_difference(content, lambda *inputs: vars(found(*inputs)).values()) <= 1e-3
    path.write_bytes(with_8_bits(model))
    assert OnnxRecogniser(path).content == found.content


def test_some_model_has_a_single_frame():
    contents = [content_of(architecture) for architecture in ARCHITECTURES.values()]
    assert not all(content["architecture"]["normalize_input"] for content in contents)


def test_8_bits(tmp_path):
    content = content_of(ARCHITECTURES["linear"])
    path = tmp_path / "model.onnx"
    write_onnx(content, path, int8=True)
    kinds = {initializer.data_type for initializer in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    difference = worst_difference(content, graph_of(session_of(path)))
    assert 1e-4 < difference <= 0.2  # the logits' standard deviation is about 1


def test_files_that_are_no_recogniser(tmp_path):
    damaged, foreign = tmp_path / "damaged.onnx", tmp_path / "foreign.onnx"
    damaged.write_bytes(b"\x08\x08rest")
    with pytest.raises(UserError, match=r"damaged.onnx: truncated, damaged"):
        OnnxRecogniser(damaged)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, foreign)
    with pytest.raises(UserError, match=r"foreign.onnx: does not say of what model it is"):
        OnnxRecogniser(foreign)
    with pytest.raises(UserError, match=r"foreign.onnx: an ONNX file has no weights to read"):
        checkpoints.read_checkpoint(foreign)


def test_without_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setattr("wav2vec2.interop.onnx.find_spec", lambda name: None)
    with pytest.raises(UserError, match="model.onnx: ONNX files run in onnxruntime; `pip install"):
        OnnxRecogniser(tmp_path / "model.onnx")
