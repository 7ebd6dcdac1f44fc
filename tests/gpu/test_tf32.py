"""With TF32 and autocast on, as a caller may set them, the fp32 islands keep fp32's digits."""

import copy

import numpy as np
import pytest
import torch

from wav2vec2.contrastive import contrastive_logits, contrastive_loss, draw_distractors
from wav2vec2.numerics import exact_matmul
from wav2vec2.quantizer import GumbelQuantizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# TF32 keeps 10 bits of a factor: errors of 1e-3 to 1e-4 in what follows, fp32's are below 1e-5.
BOUND = 1e-5


@pytest.fixture(autouse=True)
def tf32():
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(params=[False, True], ids=["tf32", "tf32 and autocast"])
def autocast(request):
    with torch.autocast("cuda", torch.bfloat16, enabled=request.param):
        yield


def assert_close(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Relative to the whole tensor: the largest difference against the largest value."""
    assert found.dtype == torch.float32 and exact.dtype == torch.float64
    assert (found - exact).abs().max() <= BOUND * exact.abs().max()


def leaves(*tensors: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    return [t.detach().to(dtype).requires_grad_() for t in tensors]


def test_tf32_would_be_seen():
    """The bound tells TF32 from fp32, or the tests below could not fail."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    torch.manual_seed(0)
    a, b = torch.randn(2, 512, 512, device="cuda")
    exact = a.double() @ b.double()
    assert (a @ b - exact).abs().max() > BOUND * exact.abs().max()
    assert_close(exact_matmul(a, b), exact)


def test_similarity(autocast):
    torch.manual_seed(0)
    vectors = torch.randn(2, 4, 200, 256, device="cuda")
    codes = torch.arange(200, device="cuda").expand(4, 200)[..., None]
    drawn = draw_distractors(4, 200, 100, np.random.default_rng(0))
    distractors = torch.tensor(drawn, device="cuda")
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = leaves(*vectors, dtype=dtype)
        logits = contrastive_logits(*inputs, codes, distractors, 0.1)
        contrastive_loss(logits).backward()
        results.append([logits.detach(), *(x.grad for x in inputs)])
    for found, exact in zip(*results):
        assert_close(found, exact)


def test_quantizer(autocast, monkeypatch):
    torch.manual_seed(0)
    single = GumbelQuantizer(512, 2, 320, 256).cuda().train()
    double = copy.deepcopy(single).double()
    noise = -torch.empty(800, 2, 320, device="cuda").exponential_().log()
    inputs = torch.randn(4, 200, 512, device="cuda") / 20  # logits of about 1: no sure choices
    direction = torch.randn(4, 200, 256, device="cuda")
    monkeypatch.setattr(
        "wav2vec2.quantizer.sample_gumbel", lambda logits, generator: noise.to(logits.dtype)
    )
    results = []
    for quantizer in (single, double):
        (x,) = leaves(inputs, dtype=quantizer.vars.dtype)
        output = quantizer(x, 2.0)
        (output.vectors * direction).sum().backward()
        gradients = [x.grad, *(p.grad for p in quantizer.parameters())]
        results.append((output.codes, [output.vectors.detach(), output.prob_sums, *gradients]))
    (codes, found), (expected_codes, exact) = results
    assert torch.equal(codes, expected_codes)
    for ours, theirs in zip(found, exact):
        assert_close(ours.detach(), theirs.detach())
