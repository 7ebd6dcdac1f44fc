"""Loading a checkpoint takes little more memory than the model itself."""

import subprocess
import sys

import pytest
import torch

from tests.integration.conftest import ROOT
from wav2vec2.config import LARGE
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import huggingface, native
from wav2vec2.interop.state_dict import expected_weights
from wav2vec2.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary([*"|ETAOIN"])
LOAD = """
import resource, sys
from wav2vec2.interop import checkpoints, native

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

path = sys.argv[1]
before = peak()
model, _ = native.load_ctc(checkpoints.read_checkpoint(path), path)
total = sum(float(p.sum()) for p in model.parameters())  # reads every page
print(peak() - before - sum(4 * p.numel() for p in model.parameters()))
"""


@pytest.fixture(scope="module")
def content():
    """A recogniser of Large's size, 315 million weights of zeros."""
    weights = expected_weights(LARGE, "ctc", len(VOCABULARY))
    zeros = {name: torch.zeros(w.shape) for name, w in weights.items()}
    return {**native.ctc_content(LARGE, VOCABULARY, "ltr"), "model": zeros}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["native", "huggingface"])
def test_peak_of_loading(content, tmp_path, kind):
    path = tmp_path / "model.pt"
    if kind == "huggingface":
        path = tmp_path / "folder"
        huggingface.write_huggingface(content, path)
    else:
        save_checkpoint(path, content)
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) <= 0.5e9, f"{float(result.stdout) / 1e9:.2f} GB above the model"
