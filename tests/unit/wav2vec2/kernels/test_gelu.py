"""The fused kernel of a linear layer and its GELU, against the two apart."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wav2vec2.kernels import gelu
from wav2vec2.kernels.gelu import gelu_of


@pytest.fixture
def task():
    torch.manual_seed(0)
    return nn.Linear(48, 96), torch.randn(3, 17, 48)


def test_fused(task):
    """Within the rounding of the result: the sum below GELU is rounded at most once more."""
    linear, x = task
    linear, x = linear.bfloat16(), x.bfloat16()
    weight, bias = linear.weight.double(), linear.bias.double()
    exact = F.gelu(F.linear(x.double(), weight, bias))
    with torch.no_grad():
        assert gelu.kernel_for(x) == "fused"
        found = gelu_of(linear, x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-8)


def test_who_wants_gradients_or_fp32(task):
    linear, x = task
    assert gelu.kernel_for(x) == gelu.kernel_for(x.bfloat16()) == "torch"
    with torch.no_grad():
        assert gelu.kernel_for(x) == "torch"
        assert gelu.kernel_for(x.bfloat16().to("meta")) == "torch"
        assert torch.equal(gelu_of(linear, x), F.gelu(linear(x)))


def test_falls_back(task, monkeypatch, caplog):
    linear, x = (part.bfloat16() for part in task)
    gelu._cpu_kernel.cache_clear()
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO), torch.no_grad():
        patch.setattr(gelu, "_fused", lambda *_: torch.ops.mkldnn.no_such_operator())
        found = gelu_of(linear, x)
    gelu._cpu_kernel.cache_clear()
    with torch.no_grad():
        assert torch.equal(found, F.gelu(linear(x)))
    assert "fused does not work here" in caplog.text
    assert "GELU of linear layers of torch.bfloat16: torch" in caplog.text
