"""The choice between kernels: tried, logged, and survived."""

import logging

import pytest
import torch

from wav2vec2 import kernels


def test_what_works_is_taken(caplog):
    with caplog.at_level(logging.INFO):
        assert kernels.choose("products of x", "ours", "torch", lambda: None) == "ours"
    assert [(r.levelname, r.message) for r in caplog.records] == [("INFO", "products of x: ours")]


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, TypeError, NotImplementedError])
def test_what_does_not_is_left(caplog, error):
    def trial():
        raise error("first line\nsecond")

    with caplog.at_level(logging.INFO):
        assert kernels.choose("products of x", "ours", "torch", trial) == "torch"
    assert [r.message for r in caplog.records] == [
        "products of x: ours does not work here: first line",
        "products of x: torch",
    ]


def test_a_trial_may_want_gradients():
    def trial():
        x = torch.ones(1, requires_grad=True)
        (2 * x).backward()
        assert x.grad == 2

    with torch.inference_mode():
        assert kernels.choose("products of x", "ours", "torch", trial) == "ours"
