"""Layer norm in half precision, against itself in fp64."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from wav2vec2.numerics import LayerNorm

ROWS, CHANNELS = (4, 2000), 768


def relative(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


def run(norm, x, direction, recompute=False):
    """Output, and the gradients of input, gain and offset."""
    x = x.detach().to(norm.weight.dtype).requires_grad_()
    y = checkpoint(norm, x, use_reentrant=False) if recompute else norm(x)
    y.backward(direction.to(y.dtype))
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad


def make(dtype):
    torch.manual_seed(0)
    norm = LayerNorm(CHANNELS)
    torch.nn.init.normal_(norm.weight, 1.0, 0.2)
    torch.nn.init.normal_(norm.bias, 0.0, 0.2)
    return norm.to(dtype)


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.004), (torch.float16, 0.0005)])
@pytest.mark.parametrize("recompute", [False, True])
def test_sums_over_thousands_of_frames_do_not_err(dtype, bound, recompute):
    half = make(dtype)
    double = make(torch.float64)
    double.load_state_dict(half.state_dict())
    x = (3 + torch.randn(*ROWS, CHANNELS)).to(dtype)
    direction = (0.3 + torch.randn(*ROWS, CHANNELS)).to(dtype)
    expected = run(double, x, direction)
    found = run(half, x, direction, recompute)
    assert all(t.dtype == dtype for t in found)
    for ours, exact in zip(found, expected):
        assert relative(ours, exact) < bound
    torchs = torch.nn.LayerNorm(CHANNELS, dtype=dtype)
    torchs.load_state_dict(half.state_dict())
    _, _, gain, offset = map(relative, run(torchs, x, direction), expected)
    print(f"torch's own, {dtype}: gradients of gain and offset err by {gain:.1%} and {offset:.1%}")
    assert max(gain, offset) > 10 * bound  # or torch's own would do by now


def test_without_gradients_or_in_other_types_it_is_torchs():
    x = torch.randn(2, 5, CHANNELS)
    for dtype in (torch.float32, torch.float64):
        norm, values = make(dtype), x.to(dtype)
        expected = torch.nn.functional.layer_norm(
            values, (CHANNELS,), norm.weight, norm.bias, norm.eps
        )
        assert torch.equal(norm(values), expected)
    with torch.no_grad():
        assert not make(torch.bfloat16)(x.bfloat16()).requires_grad
