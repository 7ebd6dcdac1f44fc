"""Layer and group norm whose sums are fp32 at least, whatever the type of what they normalise."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wav2vec2.numerics import at_least_fp32

NORM_EPS = 1e-5
"""eps of every LayerNorm and GroupNorm in the model."""

CACHED = 256
"""Rows whose products are summed at a time, so that they stay in the cache."""


class GroupNorm(nn.GroupNorm):
    """Statistics in fp32 at least: torch's kernels round those of half precision to 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, time]` -> the same, in its own type."""
        weight, bias = at_least_fp32(self.weight), at_least_fp32(self.bias)
        y = F.group_norm(at_least_fp32(x), self.num_groups, weight, bias, self.eps)
        return y.to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Gradients of gain and offset are summed in fp32 at least.

    In half precision torch's kernel for CPUs sums them in 16 bits: over 8,000 frames the gain's
    errs by several percent, the offset's by a third (docs/numerics.md).  Its kernels for GPUs sum
    in fp32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[..., channels]` -> the same, in its own type."""
        half = self.weight.dtype in (torch.bfloat16, torch.float16) and x.dtype == self.weight.dtype
        if half and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return _LayerNorm.apply(x, self.weight, self.bias, self.eps)
        return super().forward(x)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, offset: Tensor, eps: float) -> Tensor:
        y, mean, inverse = normalise(x, gain, offset, eps)
        ctx.save_for_backward(x, mean, inverse, gain, offset)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # only once: a recomputed layer hands them out no second time
        _, _, _, gain, offset = saved
        below, of_gain, of_offset = normalise_backward(gradient, *saved)
        return below, of_gain.to(gain.dtype), of_offset.to(offset.dtype), None


def normalise(x: Tensor, gain: Tensor, offset: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm of `x` `[..., channels]` in its own type, and of each row its mean and the inverse
    of its deviation, `[..., 1]`, in fp32 at least."""
    return torch.native_layer_norm(x, gain.shape, at_least_fp32(gain), at_least_fp32(offset), eps)


def normalise_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, gain: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of `normalise`'s first result, with its `x`, `gain` and `offset` and its
    other results: the gradients of `x`, in its type, of gain and of offset, in fp32 at least."""
    wide = at_least_fp32(gain), at_least_fp32(offset)
    sums = x.dtype == wide[0].dtype
    backward = torch.ops.aten.native_layer_norm_backward
    below, *rest = backward(gradient, x, gain.shape, mean, inverse, *wide, [True, sums, sums])
    if sums:
        return below, *rest
    rows = [t.reshape(-1, t.shape[-1]).split(CACHED) for t in (gradient, x, mean, inverse)]
    of_gain = torch.zeros_like(wide[0])
    for g, values, m, i in zip(*rows):
        of_gain += (values - m).mul_(i).mul_(g).sum(dim=0)
    of_offset = gradient.reshape(-1, gradient.shape[-1]).sum(dim=0, dtype=of_gain.dtype)
    return below, of_gain, of_offset
