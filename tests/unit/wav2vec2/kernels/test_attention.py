"""Attention by matrix products, utterance by utterance, against the formula over the batch."""

import logging
import math

import pytest
import torch

from wav2vec2.kernels import attention
from wav2vec2.kernels.attention import attend

HEADS, FRAMES, DIM = 3, 11, 4
COUNTS = [11, 1, 7]


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


@pytest.mark.parametrize("room", [1, 2 * 49, 2**21], ids=["one head", "some heads", "all"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_products(task, monkeypatch, room, padded, dropout):
    """Result and gradients, the dropped weights being given, however many heads at a time."""
    inputs, valid, weights = task
    inputs = [x.requires_grad_() for x in inputs]
    valid = valid if padded else torch.ones_like(valid)
    counts = valid.sum(dim=1).tolist()
    kept = torch.rand(len(counts), HEADS, FRAMES, FRAMES) >= dropout
    draws = iter([(kept[row, :, :n, :n], 1 / (1 - dropout)) for row, n in enumerate(counts)])
    monkeypatch.setattr(attention, "draw_kept", lambda *_: next(draws))
    monkeypatch.setattr(attention, "WEIGHTS", room)
    monkeypatch.setattr(attention, "kernel_for", lambda *_: "products")
    found = attend(*inputs, valid if padded else None, dropout)
    expected = by_hand(*inputs, valid, kept, dropout)
    rows = valid[:, None, :, None]
    torch.testing.assert_close(found * rows, expected * rows)
    mine, theirs = (gradients(y, inputs, valid, weights) for y in (found, expected))
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kernel", ["rows", "torch", "products"])
def test_kernels_agree(task, monkeypatch, kernel):
    inputs, valid, weights = task
    inputs = [x.requires_grad_() for x in inputs]
    monkeypatch.setattr(attention, "kernel_for", lambda *_: kernel)
    for given in (valid, None):
        all_valid = torch.ones_like(valid) if given is None else given
        found, expected = attend(*inputs, given, 0.0), by_hand(*inputs, all_valid)
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
    ("dtype", "dropout", "kernel"),
    [
        (torch.float32, 0.0, "rows"),
        (torch.float32, 0.1, "products"),
        (torch.bfloat16, 0.0, "products"),
        (torch.float16, 0.0, "rows"),
    ],
)
def test_choice(dtype, dropout, kernel):
    assert attention.kernel_for(torch.ones(1, 1, 2, 4, dtype=dtype), dropout) == kernel


def test_another_device_and_autocast_are_torchs():
    assert attention.kernel_for(torch.ones(1, 1, 2, 4, device="meta"), 0.1) == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.kernel_for(torch.ones(1, 1, 2, 4), 0.1) == "torch"


def test_falls_back(task, monkeypatch, caplog):
    """Where the products do not work, torch's kernel does the same, and the log says so."""
    inputs, valid, _ = task
    caplog.set_level(logging.INFO)
    attention._cpu_kernel.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_Rooms", None)
        found = attend(*inputs, valid, 0.5)
        bf16 = attend(*(x.bfloat16() for x in inputs), valid, 0.0)
    attention._cpu_kernel.cache_clear()
    assert found.shape == bf16.shape == inputs[0].shape
    assert "attention of torch.float64: products does not work here: 'NoneType'" in caplog.text
    assert "attention of torch.float64: torch" in caplog.text
    assert "attention of torch.bfloat16: torch" in caplog.text


def test_other_devices_leave_cudnns_kernel_out(monkeypatch):
    """Whatever the process allows, which stays as it was."""
    seen, original = [], torch.nn.functional.scaled_dot_product_attention

    def look(*args, **kwargs):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", look)
    monkeypatch.setattr(attention, "kernel_for", lambda *_: "torch")
    before = torch.backends.cuda.cudnn_sdp_enabled()
    x = torch.randn(1, 2, 5, 4)
    attention.attend(x, x, x, None, 0.0)
    assert seen == [False] and torch.backends.cuda.cudnn_sdp_enabled() == before
