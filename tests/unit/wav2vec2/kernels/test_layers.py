"""Transformer layers: activation checkpointing and torch.compile."""

import logging
import shutil
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from wav2vec2 import kernels
from wav2vec2.config import MINI, Hourglass, Regularisation
from wav2vec2.trunk import build_encoder

HOURGLASS = replace(MINI, hourglass=Hourglass(1, 2, 2, 1))


def run(encoder, valid):
    """Output, gradients of the input and of all parameters, and the bytes kept for them."""
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
    plain, all_kept = run(encoder, valid)
    kernels.recompute_layers(encoder)
    again, inputs_kept = run(encoder, valid)
    assert len(plain) == len(again) > 20
    for a, b in zip(plain, again):
        assert torch.equal(a, b)
    assert inputs_kept < 0.7 * all_kept


def test_only_where_gradients_are_wanted(monkeypatch):
    encoder = build_encoder(MINI, Regularisation())
    kernels.recompute_layers(encoder)
    monkeypatch.setattr("wav2vec2.kernels.recomputation.checkpoint", None)
    with torch.no_grad():
        assert encoder(torch.randn(1, 9, MINI.dim), None).isfinite().all()


NO_DROPOUT = Regularisation(dropout=0, attention_dropout=0, activation_dropout=0)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled(caplog):
    """The same outputs and gradients."""
    torch._dynamo.reset()
    encoder = build_encoder(HOURGLASS, NO_DROPOUT)
    plain, _ = run(encoder, None)
    with caplog.at_level(logging.INFO):
        kernels.compile_layers(encoder)
    assert [r.message for r in caplog.records if r.name == "wav2vec2.kernels"] == [
        "kernel in use: transformer layers by torch.compile"
    ]
    compiled, _ = run(encoder, None)
    assert len(plain) == len(compiled)
    for a, b in zip(plain, compiled):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_one_graph_for_all_layers_and_lengths(monkeypatch):
    monkeypatch.setattr(kernels, "works", lambda *_: True)
    torch._dynamo.reset()
    encoder, counter = build_encoder(HOURGLASS, NO_DROPOUT), CompileCounter()
    layer = type(encoder.stack.layers[0])
    original = layer.compile
    monkeypatch.setattr(layer, "compile", lambda self, **k: original(self, backend=counter, **k))
    inputs = [torch.randn(*size, MINI.dim) for size in [(2, 30), (3, 47), (5, 12), (2, 101)]]
    expected = [encoder(x, None) for x in inputs]
    kernels.compile_layers(encoder)
    for x, y in zip(inputs, expected):
        torch.testing.assert_close(encoder(x, None), y, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1
    padded = torch.arange(30) < torch.tensor([30, 17])[:, None]
    found = encoder(inputs[0], padded)
    assert counter.frame_count == 2  # another one where rows are padded
    for layer in encoder.stack.layers:
        layer._compiled_call_impl = None
    torch.testing.assert_close(found[padded], encoder(inputs[0], padded)[padded])


def test_what_does_not_compile_stays_as_it_is(monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no compiler found\nsomewhere")

    encoder = build_encoder(MINI, NO_DROPOUT)
    x = torch.randn(1, 9, MINI.dim)
    expected = encoder(x, None)
    monkeypatch.setattr(torch, "compile", fail)
    kernels.compile_layers(encoder)
    assert "transformer layers by torch.compile; plain torch is used (no comp" in caplog.text
    assert torch.equal(encoder(x, None), expected)
