"""Scaled dot-product attention; on CPUs as matrix products, where those are faster.

torch's kernel for CPUs knows neither dropout nor padding, and in bf16 it is slower than the two
products and the softmax that it fuses.  Here they are taken for one utterance at a time, without
its padding, and for as many of its heads as the cache holds.  The weights are computed again for
the backward pass, not kept.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from wav2vec2 import kernels
from wav2vec2.kernels.dropout import draw_kept

WEIGHTS = 2**21
"""Attention weights held at a time; one head's, if it has more."""

ELSEWHERE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""torch's kernels for other devices.  Not cuDNN's, which newer GPUs would get by default: it is
planned anew, for about a second, for every number of frames, of which a training has hundreds."""


def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, dropout: float) -> Tensor:
    """Attention of `q` to `k` and `v`, all `[batch, heads, frames, d]` -> the same shape.

    `valid` `[batch, frames]` is False on the padding at the end of a row, None if there is none:
    it is not attended to, and what it attends to means nothing.  `dropout`: probability with which
    a weight is dropped.
    """
    kernel = kernel_for(q, dropout)
    if kernel == "torch":
        mask = None if valid is None else valid[:, None, None, :]
        with sdpa_kernel(ELSEWHERE):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    counts = [q.shape[2]] * len(q) if valid is None else valid.sum(dim=1).tolist()
    if kernel == "products":
        return _Products.apply(q, k, v, counts, dropout)
    if valid is None:
        return F.scaled_dot_product_attention(q, k, v)
    rows = [
        F.pad(
            F.scaled_dot_product_attention(*(x[row : row + 1, :, :n] for x in (q, k, v))),
            (0, 0, 0, q.shape[2] - n),
        )
        for row, n in enumerate(counts)
    ]
    return torch.cat(rows)


def kernel_for(q: Tensor, dropout: float) -> str:
    """How to attend: by the `products` of this file, by torch's kernel over `rows`, each without
    its padding, or by `torch` over the batch with a mask.

    Measured on two cores with AVX512-BF16 (docs/performance.md).
    """
    if q.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return "torch"
    if dropout > 0 or q.dtype == torch.bfloat16:
        return _cpu_kernel(q.dtype)
    return "rows"


@functools.cache
def _cpu_kernel(dtype: torch.dtype) -> str:
    def trial() -> None:
        x = torch.ones(1, 1, 2, 1, dtype=dtype, requires_grad=True)
        _Products.apply(x, x, x, [2], 0.0).sum().backward()

    return kernels.choose(f"attention of {dtype}", "products", "torch", trial)


class _Products(torch.autograd.Function):
    """See `attend`; `counts`: valid frames of each row."""

    @staticmethod
    def forward(ctx, q, k, v, counts, dropout):  # noqa: ANN001
        out, rooms, masks = _like_a_linear_layers(q), _Rooms(q, counts), []
        factor = 1.0
        for row, n in enumerate(counts):
            if dropout > 0:
                kept, factor = draw_kept((q.shape[1], n, n), dropout)
                masks.append(kept)
            for heads in rooms.split(n):
                own_q, own_k, own_v = (x[row, heads, :n] for x in (q, k, v))
                weights = rooms.weights(own_q, own_k)
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
        result, rooms = [_like_a_linear_layers(x) for x in (q, k, v)], _Rooms(q, ctx.counts)
        for row, n in enumerate(ctx.counts):
            for heads in rooms.split(n):
                own_q, own_k, own_v, g = (x[row, heads, :n] for x in (q, k, v, gradient))
                g = g * ctx.factor
                weights = rooms.weights(own_q, own_k)
                dropped, room = weights, rooms.take(1, weights.shape)
                if masks:
                    dropped = torch.mul(weights, masks[row][heads], out=room)
                result[2][row, heads, :n] = torch.bmm(dropped.mT, g)
                scores = torch.bmm(g, own_v.mT, out=room)
                if masks:
                    scores.mul_(masks[row][heads])
                scores = torch.ops.aten._softmax_backward_data(scores, weights, -1, weights.dtype)
                scores.mul_(q.shape[-1] ** -0.5)
                result[0][row, heads, :n] = torch.bmm(scores, own_k)
                result[1][row, heads, :n] = torch.bmm(scores.mT, own_q)
        return *result, None, None


def _like_a_linear_layers(x: Tensor) -> Tensor:
    """Zeros `[batch, heads, frames, d]` that lie in memory as `[batch, frames, heads, d]`."""
    return torch.zeros_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(
        1, 2
    )


class _Rooms:
    """Two rooms for the attention weights of some heads of an utterance: fresh memory costs as
    much as what is computed in it."""

    def __init__(self, q: Tensor, counts: list[int]):
        self.heads = q.shape[1]
        self._rooms = q.new_empty(2, max(self._together(n) * n * n for n in counts))

    def _together(self, n: int) -> int:
        """Heads of an utterance of `n` frames that are taken together; of nothing else, so that an
        utterance's result does not depend on what it is batched with."""
        return min(self.heads, max(1, WEIGHTS // max(1, n * n)))

    def split(self, n: int) -> list[slice]:
        """Its heads, as many together as there is room for."""
        together = self._together(n)
        return [slice(h, h + together) for h in range(0, self.heads, together)]

    def take(self, which: int, shape: torch.Size) -> Tensor:
        return self._rooms[which, : shape.numel()].view(shape)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(q k' / sqrt(d)) of `[heads, n, d]`, in the first; the second is overwritten."""
        shape = torch.Size((*q.shape[:2], k.shape[1]))
        scores = torch.bmm(q * q.shape[-1] ** -0.5, k.mT, out=self.take(1, shape))
        return torch.softmax(scores, dim=-1, out=self.take(0, shape))
