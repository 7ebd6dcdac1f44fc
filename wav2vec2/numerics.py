"""Arithmetic that stays fp32 in half precision and under autocast; some of it without TF32, too.

docs/numerics.md gives the reasons.  "fp32" means fp32 or wider: tests of gradients run in fp64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Precision = Literal["fp32", "bf16", "fp16"]

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

HALF = (torch.bfloat16, torch.float16)

NORM_EPS = 1e-5
"""eps of every LayerNorm and GroupNorm in the model."""

ROWS_IN_CACHE = 256
"""Rows of a LayerNorm's input whose products are summed at a time, so that they stay in cache."""


def at_least_fp32(x: Tensor) -> Tensor:
    """Convert a 16-bit tensor to fp32; return a wider one as it is."""
    return x.float() if x.dtype in HALF else x


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run matrix products in their inputs' type: without TF32 and without autocast.

    This covers the forward pass only: autograd runs the backward pass later (see `exact_matmul`).
    The TF32 switch belongs to the whole process, so its previous value is restored.
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
    """Multiply `a` `[..., n, k]` by `b` `[..., k, m]` in fp32, with fp32 gradients.

    Both have the same leading axes.  TF32 keeps 10 bits of each factor: too few for a cosine
    divided by 0.1, and enough to change which code is the largest.
    """
    assert a.shape[:-2] == b.shape[:-2], "no broadcasting: the gradients would need summing"
    return _ExactMatmul.apply(at_least_fp32(a), at_least_fp32(b))


def fp32_conv1d(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Apply `conv` to `x` `[batch, channels, time]` in fp32, whatever the type of `x`.

    TF32 may be used.
    """
    weight, bias = at_least_fp32(conv.weight), at_least_fp32(conv.bias)
    with torch.autocast(x.device.type, enabled=False):
        return F.conv1d(
            at_least_fp32(x), weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )


class GroupNorm(nn.GroupNorm):
    """Normalise each channel over an utterance's own time steps, with statistics in fp32.

    torch's kernels round the statistics of 16-bit input to 16 bits.
    """

    def __init__(self, channels: int, eps: float = NORM_EPS):
        super().__init__(channels, channels, eps)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """`[batch, channels, time]` -> the same shape and type.

        `valid` `[batch, time]` is False on padding, which becomes zeros; None if there is none.
        """
        wide, weight, bias = at_least_fp32(x), at_least_fp32(self.weight), at_least_fp32(self.bias)
        if valid is None:
            return F.group_norm(wide, self.num_groups, weight, bias, self.eps).to(x.dtype)
        padding = ~valid[:, None]  # [batch, 1, time]
        count = valid.sum(dim=1).clamp(min=1)[:, None, None]
        mean = wide.masked_fill(padding, 0.0).sum(dim=-1, keepdim=True) / count
        centred = (wide - mean).masked_fill(padding, 0.0)
        variance = centred.square().sum(dim=-1, keepdim=True) / count
        y = centred * (variance + self.eps).rsqrt() * weight[:, None] + bias[:, None]
        return y.masked_fill(padding, 0.0).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, whose gradients of gain and offset are summed in fp32.

    In half precision torch's CPU kernel sums them in 16 bits.  Over 8,000 frames the gain's
    gradient is wrong by several percent and the offset's by a third (docs/numerics.md).  torch's
    GPU kernels sum in fp32.
    """

    def __init__(self, channels: int, eps: float = NORM_EPS):
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., channels]` -> the same shape and type."""
        half = x.dtype in HALF and x.dtype == self.weight.dtype
        if half and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return _LayerNorm.apply(x, self.weight, self.bias, self.eps)
        return super().forward(x)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, offset: Tensor, eps: float) -> Tensor:
        y, mean, inverse = layer_norm(x, gain, offset, eps)
        ctx.save_for_backward(x, mean, inverse, gain, offset)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Read once: under activation checkpointing, saved tensors can be unpacked only once.
        saved = ctx.saved_tensors
        _, _, _, gain, offset = saved
        of_x, of_gain, of_offset = layer_norm_backward(gradient, *saved)
        return of_x, of_gain.to(gain.dtype), of_offset.to(offset.dtype), None


def layer_norm(
    x: Tensor, gain: Tensor, offset: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm of `x` `[..., channels]`, with what its backward pass needs.

    Returns the result in the type of `x`, then each row's mean and inverse deviation, `[..., 1]`,
    in fp32.
    """
    return torch.native_layer_norm(x, gain.shape, at_least_fp32(gain), at_least_fp32(offset), eps)


def layer_norm_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, gain: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x` (in its type), gain and offset (in fp32) from that of `layer_norm`'s result.

    `mean` and `inverse` are `layer_norm`'s other results.
    """
    wide_gain, wide_offset = at_least_fp32(gain), at_least_fp32(offset)
    exact = x.dtype == wide_gain.dtype  # torch's sums are then fp32, too
    of_x, *sums = torch.ops.aten.native_layer_norm_backward(
        *(gradient, x, gain.shape, mean, inverse, wide_gain, wide_offset, [True, exact, exact])
    )
    if exact:
        return of_x, *sums
    of_gain = torch.zeros_like(wide_gain)
    rows = [t.reshape(-1, t.shape[-1]).split(ROWS_IN_CACHE) for t in (gradient, x, mean, inverse)]
    for g, values, m, i in zip(*rows):
        of_gain += (values - m).mul_(i).mul_(g).sum(dim=0)
    of_offset = gradient.reshape(-1, gradient.shape[-1]).sum(dim=0, dtype=of_gain.dtype)
    return of_x, of_gain, of_offset


def kept_fp32(model: nn.Module) -> set[int]:
    """`id` of each parameter that half precision leaves in fp32: those of `keeps_fp32` modules."""
    modules = (module for module in model.modules() if getattr(module, "keeps_fp32", False))
    return {id(parameter) for module in modules for parameter in module.parameters()}


def cast(model: nn.Module, precision: Precision) -> None:
    """Round a model's weights to `precision` for inference, except those kept in fp32."""
    kept = kept_fp32(model)
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(TYPES[precision])
