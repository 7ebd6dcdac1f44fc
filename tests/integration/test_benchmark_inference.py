"""utils/benchmarks/inference.py prints its tables, and compares models that compute the same."""

import shutil
from dataclasses import replace

import pytest
import torch

from utils.benchmarks import inference
from utils.benchmarks.inference import InferenceBenchmarkOptions
from wav2vec2.config import MINI

pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

ARGUMENTS = [
    "--model",
    "mini",
    "--hourglass_config",
    "[1,(2,2),1]",
    "--seconds",
    "0.3",
    "--rounds",
    "1",
]


def test_contestants_hear_the_same(tmp_path):
    options = InferenceBenchmarkOptions(model="mini", hourglass_config="", onnx=True, exported=True)
    waveforms, lengths = 0.1 * torch.randn(2, 8000), torch.full((2,), 8000)
    with torch.inference_mode():
        found = inference.contestants(options, tmp_path)
        outputs = {name: run(waveforms, lengths) for name, run in found.items()}
    expected = outputs["plain fp32"]
    torch.testing.assert_close(outputs["transformers fp32"], expected, rtol=1e-4, atol=1e-4)
    onnx = torch.from_numpy(outputs["ONNX fp32"][0])
    torch.testing.assert_close(onnx, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outputs["torch.export fp32"][0], expected, rtol=1e-4, atol=1e-4)
    for name in ("plain bf16", "transformers bf16"):
        assert outputs[name].dtype == torch.bfloat16
        assert (outputs[name].float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_model_hears_the_same():
    _, networks = inference.build(
        replace(MINI, hourglass=None, normalize_input=False), torch.device("cpu")
    )
    waveforms, lengths = 0.1 * torch.randn(2, 8000), torch.full((2,), 8000)
    with torch.inference_mode():
        expected = networks["fp32"](waveforms).logits
        outputs = inference.compiled(networks["fp32"])(waveforms, lengths)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)


def test_tables(command):
    code, out, err = command(inference.main, *ARGUMENTS, "--mixed", "5")
    assert code == 0, err
    names = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert set(names) >= {"plain fp32", "hourglass bf16", "transformers bf16", "plain fp32, sorted"}
    code, _, err = command(inference.main, "--rounds", "0")
    assert code == 2 and "--rounds 0" in err
