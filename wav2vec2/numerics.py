"""Where fp32 must be fp32: what half precision, autocast and TF32 may not reach."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


def at_least_fp32(x: Tensor) -> Tensor:
    """The tensor in fp32, unless it is already wider: where half precision would not do."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products inside are those of their inputs' type: neither TF32 nor autocast acts.

    Covers what runs inside, hence not the backward pass of what it encloses: autograd runs that
    later (see `exact_matmul`).  The switch is the process' own, so that the caller's choice is
    put back; through `fp32_precision`, which reads and writes whatever older switch set it.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before


class _ExactMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with full_precision(a.device):
            return a @ b

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        with full_precision(gradient.device):
            return (
                gradient @ b.mT if ctx.needs_input_grad[0] else None,
                a.mT @ gradient if ctx.needs_input_grad[1] else None,
            )


def exact_matmul(a: Tensor, b: Tensor) -> Tensor:
    """`a` `[..., n, k]` @ `b` `[..., k, m]` -> `[..., n, m]`, both with the same leading axes.

    In fp32 at least, products and gradients alike, whatever autocast and TF32 are set to.  TF32
    keeps 10 bits of each factor: too few for a cosine divided by 0.1, and enough to change which
    code is the largest.
    """
    assert a.shape[:-2] == b.shape[:-2], "no broadcasting: the gradients would need summing"
    return _ExactMatmul.apply(at_least_fp32(a), at_least_fp32(b))


Precision = Literal["fp32", "bf16", "fp16"]


TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def kept_fp32(model: nn.Module) -> set[int]:
    """`id` of each parameter that half precision leaves alone."""
    modules = (module for module in model.modules() if getattr(module, "keeps_fp32", False))
    return {id(parameter) for module in modules for parameter in module.parameters()}


def cast(model: nn.Module, precision: Precision) -> None:
    """Round a model's weights to `precision` for inference, but those that stay fp32."""
    kept = kept_fp32(model)
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(TYPES[precision])
