"""The fp32 islands, whatever the caller set: the switches are global, so a CPU shows them too."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wav2vec2.contrastive import contrastive_logits, contrastive_loss, draw_distractors
from wav2vec2.encoder import PositionalConvolution
from wav2vec2.numerics import exact_matmul, full_precision
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
