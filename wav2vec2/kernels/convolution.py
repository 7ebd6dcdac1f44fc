"""The extractor's convolutions as matrix products, for CPUs: one utterance, one stretch at a time.

A convolution over `[time, channels]` is a product of its kernel with overlapping windows, which are
views.  For the backward pass only the outputs of the convolutions are kept.  Norms and GELUs are
cheap and are computed again.  So is the first convolution, whose output is the largest.  Each
product takes STRETCH steps at a time, so that its input and output stay in the cache.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from wav2vec2.feature_extractor import ConvBlock, FeatureExtractor, frame_count, sample_count
from wav2vec2.kernels.fallback import needs_plain_torch
from wav2vec2.kernels.first_convolution import fold_first
from wav2vec2.numerics import LayerNorm, at_least_fp32, layer_norm, layer_norm_backward

STRETCH = 2048
"""Output steps of a convolution computed at a time."""

SUPPORTED = (torch.float32, torch.float64, torch.bfloat16)
"""Types of weights that this kernel computes in; plain torch runs for fp16."""


class CpuFeatureExtractor(FeatureExtractor):
    """Computes each utterance on its own, without its padding, by matrix products."""

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        first = self.conv_layers[0]
        supported = first.conv.weight.dtype in SUPPORTED and not waveforms.requires_grad
        if not supported or needs_plain_torch() or len(waveforms) == 0:
            return super().forward(waveforms, lengths)
        samples, shortest = waveforms.shape[1], sample_count(1, self.spec)
        counts = [samples] * len(waveforms) if lengths is None else lengths.tolist()
        wide = at_least_fp32(waveforms)
        _, kernel, stride = self.spec[0]
        rows = [row[: max(n, shortest)].unfold(0, kernel, stride) for row, n in zip(wide, counts)]
        windows, kernels, biases = zip(*(fold_first(first, row) for row in rows))
        return _Convolutions.apply(
            [row.contiguous() for row in windows],
            self.conv_layers,
            self.products(),
            frame_count(samples, self.spec),
            torch.stack(kernels),
            torch.stack(biases),
            *(parameter for block in self.conv_layers for parameter in _parameters(block)),
        )

    def products(self) -> list["Product"]:
        """The convolution of each block as matrix products."""
        return [Product(block) for block in self.conv_layers]


def _parameters(block: ConvBlock) -> tuple[Tensor | None, ...]:
    """Weight, bias, and the LayerNorm's gain and offset."""
    if isinstance(block.norm, LayerNorm):
        return block.conv.weight, block.conv.bias, block.norm.weight, block.norm.bias
    return block.conv.weight, block.conv.bias, None, None


class Product:
    """A block's convolution as products of rows that do not overlap: `stride` taps at a time."""

    def __init__(self, block: ConvBlock):
        (self.kernel,), (self.stride,) = block.conv.kernel_size, block.conv.stride
        self.bias = block.conv.bias
        starts = range(0, self.kernel, self.stride)
        self.taps = [(start, min(self.stride, self.kernel - start)) for start in starts]
        weight = block.conv.weight.permute(2, 1, 0)  # [kernel, in, out]
        self.shape = weight.shape
        self.matrices = [weight[t : t + n].reshape(-1, weight.shape[2]) for t, n in self.taps]

    def steps(self, time: int) -> int:
        """Output steps of `time` input steps."""
        return (time - self.kernel) // self.stride + 1

    def reach(self, start: int, end: int, time: int) -> tuple[int, int]:
        """Input steps under output steps `start` to `end`, up to where the next one's begin."""
        last = max((end - 1) * self.stride + self.kernel, end * self.stride)
        return start * self.stride, min(last, time)

    def rows(self, x: Tensor, first_tap: int, taps: int, steps: int) -> Tensor:
        """Taps `first_tap` to `first_tap + taps` of `steps` windows of `x` `[time, channels]`.

        A view `[steps, taps x channels]`; `x` is contiguous.
        """
        channels = x.shape[1]
        start = x.storage_offset() + first_tap * channels
        return x.as_strided((steps, taps * channels), (self.stride * channels, 1), start)

    def forward(self, x: Tensor, out: Tensor) -> None:
        """`x` `[time, in]` -> `out` `[steps, out]`."""
        for (tap, taps), matrix in zip(self.taps, self.matrices):
            rows = self.rows(x, tap, taps, len(out))
            if tap:
                out.addmm_(rows, matrix)
            elif self.bias is None:
                torch.mm(rows, matrix, out=out)
            else:
                torch.addmm(self.bias, rows, matrix, out=out)

    def backward(self, gradient: Tensor, time: int) -> Tensor:
        """Gradient of `out` `[steps, out]` -> gradient of `x` `[time, in]`."""
        below = gradient.new_zeros(time, self.shape[1])
        for (tap, taps), matrix in zip(self.taps, self.matrices):
            rows = self.rows(below, tap, taps, len(gradient))
            if tap:
                rows.addmm_(gradient, matrix.T)
            else:
                torch.mm(gradient, matrix.T, out=rows)
        return below

    def add_weight_gradient(self, gradient: Tensor, x: Tensor, total: Tensor) -> None:
        """Add to `total` `[kernel, in, out]`, which is fp32."""
        for tap, taps in self.taps:
            rows = self.rows(x, tap, taps, len(gradient))
            part = total[tap : tap + taps].view(-1, self.shape[2])
            if total.dtype == x.dtype:
                part.addmm_(rows.T, gradient)
            else:
                part += rows.T @ gradient


class _Activation:
    """A block's LayerNorm, if it has one, and GELU."""

    def __init__(self, block: ConvBlock):
        _, _, self.gain, self.offset = _parameters(block)
        self.eps = 0.0 if self.gain is None else block.norm.eps

    def forward(self, y: Tensor) -> Tensor:
        """`[time, channels]` -> the same."""
        if self.gain is not None:
            y, _, _ = layer_norm(y, self.gain, self.offset, self.eps)
        return F.gelu(y)

    def backward(self, y: Tensor, gradient: Tensor, totals: list[Tensor | None]) -> Tensor:
        """Return the gradient of `y`; add those of gain and offset to `totals` [2] and [3]."""
        if self.gain is None:
            return torch.ops.aten.gelu_backward(gradient, y)
        normal, mean, inverse = layer_norm(y, self.gain, self.offset, self.eps)
        gradient, gain, offset = layer_norm_backward(
            torch.ops.aten.gelu_backward(gradient, normal),
            *(y, mean, inverse, self.gain, self.offset),
        )
        totals[2] += gain
        totals[3] += offset
        return gradient


def _first(windows: Tensor, kernel: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """The first convolution: `[steps, kernel]` -> `[steps, out]`, computed in the windows' type."""
    return torch.addmm(bias, windows, kernel.T).to(dtype)


class _Convolutions(torch.autograd.Function):
    """Frames of each utterance, `[batch, frames, C]`, zeros after its own.

    `windows`: of each utterance, `[its steps, kernel]`; `kernels` `[batch, out, kernel]` and
    `biases` `[batch, out]`: the first convolution, in the windows' type.  `parameters`: those of
    all blocks.  The first block's weight and bias get their gradients through `kernels` and
    `biases`.
    """

    @staticmethod
    def forward(  # noqa: ANN205
        ctx,  # noqa: ANN001
        windows: Sequence[Tensor],
        blocks: Sequence[ConvBlock],
        products: Sequence[Product],
        frames: int,
        kernels: Tensor,
        biases: Tensor,
        *parameters: Tensor | None,
    ):
        dtype, channels = blocks[0].conv.weight.dtype, blocks[-1].conv.out_channels
        learns = any(ctx.needs_input_grad)
        activations = [_Activation(b) for b in blocks]
        result = torch.zeros(len(windows), frames, channels, dtype=dtype)
        kept: list[Tensor] = []  # of each utterance, the outputs of all convolutions but the first
        for row, view, kernel, bias in zip(result, windows, kernels, biases):
            y, time = None, len(view)
            for index in range(1, len(blocks)):
                product = products[index]
                steps = product.steps(time)
                out = torch.empty(steps, product.shape[2], dtype=dtype)
                for start in range(0, steps, STRETCH):
                    end = min(start + STRETCH, steps)
                    a, b = product.reach(start, end, time)
                    below = _first(view[a:b], kernel, bias, dtype) if y is None else y[a:b]
                    product.forward(activations[index - 1].forward(below), out[start:end])
                y, time = out, steps
                if learns:
                    kept.append(y)
            y = _first(view, kernel, bias, dtype) if y is None else y
            row[:time] = activations[-1].forward(y)
        if learns:
            ctx.blocks, ctx.windows = blocks, windows
            ctx.save_for_backward(kernels, biases, *parameters, *kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # noqa: ANN001
        blocks, windows = ctx.blocks, ctx.windows
        kernels, biases, *saved = ctx.saved_tensors
        kept = saved[4 * len(blocks) :]
        wide, dtype = kernels.dtype, blocks[0].conv.weight.dtype
        products, activations = [Product(b) for b in blocks], [_Activation(b) for b in blocks]
        # Of each block: weight (as [kernel, in, out]), bias, gain and offset.
        totals = [
            [
                torch.zeros(product.shape, dtype=wide),
                *(None if p is None else torch.zeros_like(p, dtype=wide) for p in rest),
            ]
            for product, (_, *rest) in zip(products, map(_parameters, blocks))
        ]
        of_kernels, of_biases = torch.zeros_like(kernels), torch.zeros_like(biases)
        deep = len(blocks) - 1
        for row, view in enumerate(windows):
            ys = [None, *kept[row * deep : (row + 1) * deep]]

            def output(index: int, a: int, b: int, view=view, ys=ys, row=row) -> Tensor:
                """Steps `a` to `b` of a convolution's output."""
                if index:
                    return ys[index][a:b]
                return _first(view[a:b], kernels[row], biases[row], dtype)

            def add_first_gradient(g: Tensor, a: int, view=view, row=row) -> None:
                of_kernels[row].addmm_(g.T.to(wide), view[a : a + len(g)])
                of_biases[row] += g.sum(dim=0, dtype=wide)

            time = len(ys[-1]) if deep else len(view)
            g = gradient[row, :time].contiguous()
            g = activations[-1].backward(output(deep, 0, time), g, totals[-1])
            if not deep:
                add_first_gradient(g, 0)
            for index in range(deep, 0, -1):
                product, activation = products[index], activations[index - 1]
                if totals[index][1] is not None:
                    totals[index][1] += g.sum(dim=0, dtype=wide)
                time = len(ys[index - 1]) if index > 1 else len(view)
                down = g.new_zeros(time, product.shape[1]) if index > 1 else None
                carried = None
                for start in range(0, len(g), STRETCH):
                    end = min(start + STRETCH, len(g))
                    a, b = product.reach(start, end, time)
                    y = output(index - 1, a, b)
                    product.add_weight_gradient(
                        g[start:end], activation.forward(y), totals[index][0]
                    )
                    part = product.backward(g[start:end], b - a)
                    if carried is not None:
                        part[: len(carried)] += carried
                    if end < len(g):  # the next stretch adds to the steps that both read
                        own = end * product.stride - a
                        carried, part, y = part[own:].clone(), part[:own], y[:own]
                    part = activation.backward(y, part, totals[index - 1])
                    if down is None:
                        add_first_gradient(part, a)
                    else:
                        down[a : a + len(part)] = part
                g = down
        gradients = [
            None if g is None else g.to(dtype)
            for weight, *rest in totals
            for g in (weight.permute(2, 1, 0).contiguous(), *rest)
        ]
        gradients[:2] = [None, None]
        return None, None, None, None, of_kernels, of_biases, *gradients
