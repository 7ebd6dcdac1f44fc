"""The fp32 islands, whatever the caller set: the switches are global, so a CPU shows them too."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from wav2vec2.contrastive import contrastive_logits, contrastive_loss, draw_distractors
from wav2vec2.encoder import PositionalConvolution
from wav2vec2.numerics import GroupNorm, LayerNorm, exact_matmul, full_precision
from wav2vec2.quantizer import GumbelQuantizer

MATMUL = torch.backends.cuda.matmul
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "matmul")


class Products(TorchDispatchMode):
    """Records, of every matrix product, its type and whether TF32 was allowed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in PRODUCTS:
            self.seen.append((result.dtype, MATMUL.fp32_precision))
        return result


@pytest.fixture
def tf32():
    before = MATMUL.fp32_precision
    MATMUL.allow_tf32 = True  # as train.py does
    yield
    MATMUL.allow_tf32 = False
    MATMUL.fp32_precision = before


@pytest.mark.parametrize("autocast", [False, True])
def test_products_of_the_objective_are_fp32_forward_and_backward(tf32, autocast):
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(6, 2, 5, 8).train()
    x = torch.randn(2, 7, 6, requires_grad=True)
    predictions = torch.randn(2, 7, 8, requires_grad=True)
    distractors = torch.tensor(draw_distractors(2, 7, 3, np.random.default_rng(0)))
    with Products() as products, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        quantized = quantizer(x, 1.0)
        logits = contrastive_logits(
            predictions, quantized.vectors, quantized.codes, distractors, 0.1
        )
        contrastive_loss(logits).backward()
    assert products.seen == [(torch.float32, "ieee")] * 9  # three products, two gradients each
    assert MATMUL.fp32_precision == "tf32"  # and the caller's choice is back
    assert MATMUL.allow_tf32


def test_the_callers_choice_is_back_after_an_error(tf32):
    with pytest.raises(RuntimeError), full_precision(torch.device("cpu")):
        raise RuntimeError
    assert MATMUL.fp32_precision == "tf32"


def test_exact_matmul_gradients():
    torch.manual_seed(0)
    a = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(exact_matmul(a, b), a @ b)
    assert torch.autograd.gradcheck(exact_matmul, (a, b))


def test_training_takes_codebook_entries_to_the_bit():
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(6, 2, 50, 8).train()
    output = quantizer(torch.randn(4, 30, 6), 1.7)
    codebooks = quantizer.vars.view(2, 50, -1)
    entries = [codebooks[group, output.codes[..., group]] for group in range(2)]
    assert torch.equal(output.vectors, torch.cat(entries, dim=-1))


def test_autocast_leaves_the_positional_convolution_alone():
    torch.manual_seed(0)
    convolution = PositionalConvolution(16, 8, 4)
    x = torch.randn(2, 20, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = convolution(x)
    assert torch.equal(inside, convolution(x))


ROWS, CHANNELS = (4, 2000), 768


def relative(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


def run_norm(norm, x, direction, recompute=False):
    """Output, and the gradients of input, gain and offset."""
    x = x.detach().to(norm.weight.dtype).requires_grad_()
    y = checkpoint(norm, x, use_reentrant=False) if recompute else norm(x)
    y.backward(direction.to(y.dtype))
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad


def make_norm(dtype):
    torch.manual_seed(0)
    norm = LayerNorm(CHANNELS)
    torch.nn.init.normal_(norm.weight, 1.0, 0.2)
    torch.nn.init.normal_(norm.bias, 0.0, 0.2)
    return norm.to(dtype)


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.004), (torch.float16, 0.0005)])
@pytest.mark.parametrize("recompute", [False, True])
def test_sums_over_thousands_of_frames_do_not_err(dtype, bound, recompute):
    half = make_norm(dtype)
    double = make_norm(torch.float64)
    double.load_state_dict(half.state_dict())
    x = (3 + torch.randn(*ROWS, CHANNELS)).to(dtype)
    direction = (0.3 + torch.randn(*ROWS, CHANNELS)).to(dtype)
    expected = run_norm(double, x, direction)
    found = run_norm(half, x, direction, recompute)
    assert all(t.dtype == dtype for t in found)
    for ours, exact in zip(found, expected):
        assert relative(ours, exact) < bound
    torchs = torch.nn.LayerNorm(CHANNELS, dtype=dtype)
    torchs.load_state_dict(half.state_dict())
    _, _, gain, offset = map(relative, run_norm(torchs, x, direction), expected)
    print(f"torch's own, {dtype}: gradients of gain and offset err by {gain:.1%} and {offset:.1%}")
    assert max(gain, offset) > 10 * bound  # or torch's own would do by now


def test_without_gradients_or_in_other_types_it_is_torchs():
    x = torch.randn(2, 5, CHANNELS)
    for dtype in (torch.float32, torch.float64):
        norm, values = make_norm(dtype), x.to(dtype)
        expected = torch.nn.functional.layer_norm(
            values, (CHANNELS,), norm.weight, norm.bias, norm.eps
        )
        assert torch.equal(norm(values), expected)
    with torch.no_grad():
        assert not make_norm(torch.bfloat16)(x.bfloat16()).requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_group_norm_of_padded_rows_is_that_of_each_row_alone(dtype):
    torch.manual_seed(0)
    norm = GroupNorm(6).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x, counts = torch.randn(3, 6, 40).to(dtype), [40, 2, 17]
    found = norm(x, torch.arange(40) < torch.tensor(counts)[:, None])
    for row, rest, n in zip(x, found, counts):
        torch.testing.assert_close(rest[:, :n], norm(row[None, :, :n])[0])
        assert not rest[:, n:].any()
