"""What the layers keep for the backward pass, and layers that are computed again instead."""

from dataclasses import replace

import pytest
import torch

from wav2vec2.config import MINI, Hourglass, Regularisation
from wav2vec2.model import build_encoder

HOURGLASS = replace(MINI, hourglass=Hourglass(1, 2, 2, 1))


def run(encoder, recomputed, valid):
    """Output, gradients of the input and of all parameters, and the bytes kept for them."""
    for layer in encoder.stack.layers:
        layer.recomputed = recomputed
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    x = torch.randn(2, 30, MINI.dim, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = encoder(x, valid, [True, True, False, True])
    encoder.zero_grad()
    y.square().sum().backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    return [y.detach(), x.grad, *gradients], sum(kept.values())


@pytest.mark.parametrize("architecture", [replace(MINI, hourglass=None), HOURGLASS])
@pytest.mark.parametrize("padded", [False, True])
def test_computed_again(architecture, padded):
    """The same to the bit, dropout included, with less kept."""
    encoder = build_encoder(architecture, Regularisation(dropout=0.2, activation_dropout=0.2))
    valid = torch.arange(30) < torch.tensor([30, 17])[:, None] if padded else None
    (plain, all_kept), (again, inputs_kept) = (run(encoder, r, valid) for r in (False, True))
    assert len(plain) == len(again) > 20
    for a, b in zip(plain, again):
        assert torch.equal(a, b)
    assert inputs_kept < 0.7 * all_kept


def test_only_where_gradients_are_wanted(monkeypatch):
    encoder = build_encoder(MINI, Regularisation())
    for layer in encoder.stack.layers:
        layer.recomputed = True
    monkeypatch.setattr("wav2vec2.encoder.checkpoint", None)
    with torch.no_grad():
        assert encoder(torch.randn(1, 9, MINI.dim), None).isfinite().all()
