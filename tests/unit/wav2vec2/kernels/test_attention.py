"""Attention on CPUs and GPUs against the formula over the batch."""

import math

import pytest
import torch

from wav2vec2.encoder import SelfAttention
from wav2vec2.kernels import attention
from wav2vec2.kernels.attention import LEVELS, CpuSelfAttention, GpuSelfAttention, draw_kept

HEADS, FRAMES, DIM = 3, 11, 4
COUNTS = [11, 1, 7]


def attend(q, k, v, valid, dropout, variant=CpuSelfAttention):
    return variant(HEADS * DIM, HEADS, dropout).attend(q, k, v, valid, dropout)


@pytest.fixture
def task():
    """q, k, v as a linear layer lays them out, valid frames, and weights for a scalar result."""
    torch.manual_seed(0)
    shape = (len(COUNTS), FRAMES, HEADS, DIM)
    inputs = [torch.randn(shape, dtype=torch.float64).transpose(1, 2) for _ in range(4)]
    valid = torch.arange(FRAMES) < torch.tensor(COUNTS)[:, None]
    return inputs[:3], valid, inputs[3]


def by_hand(q, k, v, valid, kept=None, probability=0.0):
    """softmax(q k' / sqrt(d)) v over the valid frames, weights dropped where `kept` is False."""
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~valid[:, None, None, :], -math.inf).softmax(dim=-1)
    if kept is not None:
        weights = weights * kept / (1 - probability)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def gradients(result, inputs, valid, weights):
    return torch.autograd.grad((result * weights * valid[:, None, :, None]).sum(), inputs)


@pytest.mark.parametrize("most", [1, 2 * 49, 2**21], ids=["one head", "some heads", "all"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_products(task, monkeypatch, most, padded, dropout):
    """Result and gradients, the dropped weights being given, however many heads at a time."""
    inputs, valid, weights = task
    inputs = [x.requires_grad_() for x in inputs]
    valid = valid if padded else torch.ones_like(valid)
    counts = valid.sum(dim=1).tolist()
    kept = torch.rand(len(counts), HEADS, FRAMES, FRAMES) >= dropout
    draws = iter([(kept[row, :, :n, :n], 1 / (1 - dropout)) for row, n in enumerate(counts)])
    monkeypatch.setattr(attention, "draw_kept", lambda *_: next(draws))
    monkeypatch.setattr(attention, "WEIGHTS", most)
    counts = valid.sum(dim=1).tolist()
    found = attention._Products.apply(*inputs, counts, dropout)
    expected = by_hand(*inputs, valid, kept, dropout)
    rows = valid[:, None, :, None]
    torch.testing.assert_close(found * rows, expected * rows)
    mine, theirs = (gradients(y, inputs, valid, weights) for y in (found, expected))
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("variant", [SelfAttention, CpuSelfAttention, GpuSelfAttention])
def test_variants_agree(task, variant):
    inputs, valid, weights = task
    inputs = [x.requires_grad_() for x in inputs]
    for given in (valid, None):
        all_valid = torch.ones_like(valid) if given is None else given
        found, expected = attend(*inputs, given, 0.0, variant), by_hand(*inputs, all_valid)
        rows = all_valid[:, None, :, None]
        torch.testing.assert_close(found * rows, expected * rows)
        mine, theirs = (gradients(y, inputs, all_valid, weights) for y in (found, expected))
        for a, b in zip(mine, theirs):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_padding_changes_nothing(dtype, dropout):
    """To the bit: an utterance alone, and behind others with longer ones in the batch."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, HEADS, 40, 8, dtype=dtype) for _ in range(3))
    valid = torch.arange(40) < torch.tensor([25, 40])[:, None]
    torch.manual_seed(1)
    batched = attend(q, k, v, valid, dropout)[0, :, :25]
    torch.manual_seed(1)
    alone = attend(*(x[:1, :, :25].contiguous() for x in (q, k, v)), None, dropout)[0]
    assert torch.equal(batched, alone)


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 30, 8) for _ in range(3))
    exact = attend(q, k, v, None, 0.0)
    drawn = torch.stack([attend(q, k, v, None, 0.3) for _ in range(2000)])
    assert not torch.equal(drawn[0], drawn[1])
    deviation = (drawn.mean(dim=0) - exact).abs() / (drawn.std(dim=0) / math.sqrt(2000))
    assert deviation.max() < 5


@pytest.mark.parametrize(
    ("dtype", "dropout", "products"),
    [
        (torch.float32, 0.0, False),
        (torch.float32, 0.1, True),
        (torch.bfloat16, 0.0, True),
        (torch.float16, 0.0, False),
    ],
)
def test_products_are_used_with_dropout_and_in_bf16(dtype, dropout, products, monkeypatch):
    called = []
    monkeypatch.setattr(attention._Products, "apply", lambda q, *_: called.append(q) or q)
    x = torch.ones(1, 1, 2, 4, dtype=dtype)
    attend(x, x, x, None, dropout)
    assert bool(called) == products


def test_under_autocast_attention_is_torchs(monkeypatch):
    monkeypatch.setattr(attention._Products, "apply", None)
    x = torch.ones(1, 1, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        attend(x, x, x, None, 0.1)


def test_on_gpus_cudnn_is_not_allowed(monkeypatch):
    """Whatever the process allows, which stays as it was."""
    seen, original = [], torch.nn.functional.scaled_dot_product_attention

    def look(*args, **kwargs):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", look)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    x = torch.randn(1, 2, 5, 4)
    attend(x, x, x, None, 0.0, GpuSelfAttention)
    assert seen == [False] and torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_share_and_factor_of_dropout(probability):
    """Within five deviations, in every place of the 64 bits that four elements share."""
    torch.manual_seed(0)
    count = 200_000
    kept, factor = draw_kept((count, 4), probability)
    assert factor == pytest.approx(1 / (1 - probability), abs=1e-3)
    bound = 5 * (probability * (1 - probability) / count) ** 0.5 + 1 / LEVELS
    for place in kept.unbind(dim=1):
        assert abs(1 - place.double().mean() - probability) < bound
    pairs = (kept[:, 0] & kept[:, 1]).double().mean()
    assert abs(pairs - (1 - probability) ** 2) < 5 * 0.5 / count**0.5


def test_a_probability_that_rounds_to_one_keeps_the_factor_finite():
    kept, factor = draw_kept((1000,), 1 - 1e-7)
    assert kept.sum() < 10 and factor == LEVELS
