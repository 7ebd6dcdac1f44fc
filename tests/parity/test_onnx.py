"""ONNX files through onnxruntime against the model."""

import json

import pytest
import torch

from tests.unit.wav2vec2.test_exported import (
    ARCHITECTURES,
    VOCABULARY,
    content_of,
    worst_difference,
)
from wav2vec2.interop.onnx import write_onnx

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


def test_8_bits(tmp_path):
    content = content_of(ARCHITECTURES["linear"])
    path = tmp_path / "model.onnx"
    write_onnx(content, path, int8=True)
    kinds = {initializer.data_type for initializer in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    difference = worst_difference(content, graph_of(session_of(path)))
    assert 1e-4 < difference <= 0.2  # of logits whose deviation is about 1
