"""Scaled dot-product attention: variants for CPUs and for GPUs.

torch's fused CPU kernel has no dropout and also computes padding.  In bf16 it is slower than the
two matrix products and the softmax that it fuses.  Here each utterance is computed separately,
without its padding, for as many heads at a time as fit into the cache.  The attention weights are
not kept: the backward pass computes them again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from wav2vec2.encoder import SelfAttention
from wav2vec2.kernels.fallback import needs_plain_torch

WEIGHTS = 2**21
"""Attention weights computed at a time; at least those of one head."""

LEVELS = 2**16
"""The dropout probability is rounded to a multiple of 1 / LEVELS."""


def draw_kept(shape: tuple[int, ...], probability: float) -> tuple[Tensor, float]:
    """Draw which elements dropout keeps: a bool mask of `shape`, and the factor for the kept ones.

    Uses 16 bits per element of torch's default generator, which is ten times as fast as its
    `bernoulli_`.
    """
    count = torch.Size(shape).numel()
    dropped = min(round(probability * LEVELS), LEVELS - 1)  # the factor must stay finite
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[:count].view(shape) >= dropped - LEVELS // 2
    return kept, LEVELS / (LEVELS - dropped)


class CpuSelfAttention(SelfAttention):
    """By matrix products with dropout or in bf16; otherwise by torch's kernel, row by row."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, dropout: float
    ) -> Tensor:
        if needs_plain_torch() or len(q) == 0:
            return super().attend(q, k, v, valid, dropout)
        counts = [q.shape[2]] * len(q) if valid is None else valid.sum(dim=1).tolist()
        if dropout > 0 or q.dtype == torch.bfloat16:
            return _Products.apply(q, k, v, counts, dropout)
        if valid is None:
            return super().attend(q, k, v, None, 0.0)
        rows = [
            F.pad(
                F.scaled_dot_product_attention(*(x[row : row + 1, :, :n] for x in (q, k, v))),
                (0, 0, 0, q.shape[2] - n),
            )
            for row, n in enumerate(counts)
        ]
        return torch.cat(rows)


class GpuSelfAttention(SelfAttention):
    """torch's attention without cuDNN's kernel.

    Newer GPUs would choose cuDNN's by default.  It makes a new plan for each number of frames,
    which takes about a second, and a training run has hundreds of different numbers.
    """

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, dropout: float
    ) -> Tensor:
        kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        with sdpa_kernel(kernels):
            return super().attend(q, k, v, valid, dropout)


class _Products(torch.autograd.Function):
    """Attention of each row's first `counts` frames; zeros after them."""

    @staticmethod
    def forward(ctx, q, k, v, counts, dropout):  # noqa: ANN001
        out, scratch, masks = _zeros_like(q), _Scratch(q, counts), []
        factor = 1.0
        for row, n in enumerate(counts):
            if dropout > 0:
                kept, factor = draw_kept((q.shape[1], n, n), dropout)
                masks.append(kept)
            for heads in scratch.split_heads(n):
                own_q, own_k, own_v = (x[row, heads, :n] for x in (q, k, v))
                weights = scratch.weights(own_q, own_k)
                if dropout > 0:
                    weights.mul_(kept[heads])
                out[row, heads, :n] = torch.bmm(weights, own_v).mul_(factor)
        ctx.counts, ctx.factor = counts, factor
        ctx.save_for_backward(q, k, v, *masks)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # noqa: ANN001
        q, k, v, *masks = ctx.saved_tensors
        of_q, of_k, of_v = (_zeros_like(x) for x in (q, k, v))
        scratch = _Scratch(q, ctx.counts)
        for row, n in enumerate(ctx.counts):
            for heads in scratch.split_heads(n):
                own_q, own_k, own_v, g = (x[row, heads, :n] for x in (q, k, v, gradient))
                g = g * ctx.factor
                weights = scratch.weights(own_q, own_k)
                dropped, buffer = weights, scratch.buffer(1, weights.shape)
                if masks:
                    dropped = torch.mul(weights, masks[row][heads], out=buffer)
                of_v[row, heads, :n] = torch.bmm(dropped.mT, g)
                scores = torch.bmm(g, own_v.mT, out=buffer)
                if masks:
                    scores.mul_(masks[row][heads])
                scores = torch.ops.aten._softmax_backward_data(scores, weights, -1, weights.dtype)
                scores.mul_(q.shape[-1] ** -0.5)
                of_q[row, heads, :n] = torch.bmm(scores, own_k)
                of_k[row, heads, :n] = torch.bmm(scores.mT, own_q)
        return of_q, of_k, of_v, None, None


def _zeros_like(x: Tensor) -> Tensor:
    """Zeros `[batch, heads, frames, d]`, stored as `[batch, frames, heads, d]`."""
    return torch.zeros_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(
        1, 2
    )


class _Scratch:
    """Two buffers for the attention weights of some heads of one utterance.

    They are reused, because allocating memory costs as much time as the arithmetic on it.
    """

    def __init__(self, q: Tensor, counts: list[int]):
        self.heads = q.shape[1]
        self._buffers = q.new_empty(2, max(self._heads_at_a_time(n) * n * n for n in counts))

    def _heads_at_a_time(self, n: int) -> int:
        """Heads computed at a time for an utterance of `n` frames.

        It depends on nothing else, so that an utterance's result is the same in every batch.
        """
        return min(self.heads, max(1, WEIGHTS // max(1, n * n)))

    def split_heads(self, n: int) -> list[slice]:
        count = self._heads_at_a_time(n)
        return [slice(h, h + count) for h in range(0, self.heads, count)]

    def buffer(self, which: int, shape: torch.Size) -> Tensor:
        return self._buffers[which, : shape.numel()].view(shape)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(q k' / sqrt(d)) of `[heads, n, d]` in buffer 0; buffer 1 is overwritten."""
        shape = torch.Size((*q.shape[:2], k.shape[1]))
        scores = torch.bmm(q * q.shape[-1] ** -0.5, k.mT, out=self.buffer(1, shape))
        return torch.softmax(scores, dim=-1, out=self.buffer(0, shape))
