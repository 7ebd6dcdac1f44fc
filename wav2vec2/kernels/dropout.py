"""Dropout whose masks cost little on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEVELS = 2**16
"""On a CPU the probability is rounded to a multiple of 1 / LEVELS."""


def draw_kept(shape: tuple[int, ...], probability: float) -> tuple[Tensor, float]:
    """Which elements dropout keeps, bool of `shape` on the CPU, and the factor that makes up for
    the others.

    From torch's default generator, 16 bits an element, which is an order of magnitude faster than
    its `bernoulli_`.
    """
    count = torch.Size(shape).numel()
    dropped = round(probability * LEVELS)
    if dropped == LEVELS:
        return torch.zeros(shape, dtype=torch.bool), 0.0
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[:count].view(shape) >= dropped - LEVELS // 2
    return kept, LEVELS / (LEVELS - dropped)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, probability: float) -> Tensor:
        kept, ctx.factor = draw_kept(x.shape, probability)
        ctx.save_for_backward(kept)
        return (x * kept).mul_(ctx.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.factor), None


class Dropout(nn.Dropout):
    """torch's, with masks of its own on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return _Dropout.apply(x, self.p)
