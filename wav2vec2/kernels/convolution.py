"""The extractor's convolutions as matrix products, for CPUs: one utterance, one stretch at a time.

A convolution over `[time, channels]` is a product of overlapping windows, which are views, with its
kernel.  Between two convolutions lie only a norm and GELU, which are cheap, so the outputs of the
convolutions are all that is kept for the backward pass.  Of the first, whose steps are the most and
whose kernel sees a single channel, not even that: it is computed again, its group norm folded into
its kernel.  Stretches of STRETCH steps keep what lies between two products in the cache.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wav2vec2 import kernels
from wav2vec2.norms import normalise, normalise_backward

STRETCH = 2048
"""Output steps of a convolution computed at a time."""


def kernel_for(weight: Tensor, waveforms: Tensor) -> str:
    """How an extractor with that `weight` convolves `waveforms`: by the `products` of this file, or
    by torch's `conv1d`.

    Measured on two cores with AVX512-BF16 (docs/performance.md): products win forwards and
    backwards, in fp32 and in bf16.  conv1d serves other devices and types, tracing, autocast, and
    whoever wants the gradient of the waveforms.
    """
    if (
        weight.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or waveforms.requires_grad
    ):
        return "conv1d"
    return _cpu_kernel(weight.dtype)


@functools.cache
def _cpu_kernel(dtype: torch.dtype) -> str:
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return "conv1d"
    return kernels.choose(
        f"convolutions of {dtype}", "products", "conv1d", lambda: _try_products(dtype)
    )


def _try_products(dtype: torch.dtype) -> None:
    """A small extractor, forth and back; raises what torch raises."""
    wide = torch.promote_types(dtype, torch.float32)
    weight = torch.ones(4, 4, 3, dtype=dtype, requires_grad=True)
    layers = [Layer(2, weight, None, nn.LayerNorm(4, dtype=dtype)) for _ in range(2)]
    kernel = torch.ones(1, 4, 2, dtype=wide)
    frames = convolve([torch.ones(8, 2, dtype=wide)], kernel, kernel[..., 0], layers, 3)
    frames.sum().backward()


@dataclass
class Layer:
    """One convolution and the LayerNorm, if any, between it and its GELU."""

    stride: int
    weight: Tensor
    """`[out, in, kernel]`."""
    bias: Tensor | None
    norm: nn.Module | None
    """What follows: a LayerNorm over the channels, or nothing.  Of the first layer a group norm is
    not looked at, being folded into its kernel, nor are weight and bias but for their type."""

    @property
    def kernel(self) -> int:
        return self.weight.shape[2]

    @property
    def parameters(self) -> tuple[Tensor | None, ...]:
        """Weight, bias, the LayerNorm's gain and offset."""
        if isinstance(self.norm, nn.LayerNorm):
            return self.weight, self.bias, self.norm.weight, self.norm.bias
        return self.weight, self.bias, None, None


def fold_group_norm(
    windows: Tensor,
    weight: Tensor,
    gain: Tensor,
    offset: Tensor,
    eps: float,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A first convolution and its group norm over time, one group a channel, as one convolution.

    `windows` `[..., steps, kernel]` of an utterance, or of several; `weight` `[out, 1, kernel]`;
    `gain`, `offset` `[out]`; `valid` `[..., steps]`, bool, False on what is not an utterance's own,
    None if all is.  Returns the windows without their mean `[..., steps, kernel]` (zeros where they
    are not valid), and the kernel `[..., out, kernel]` and bias `[..., out]` to apply to them, in
    fp32 at least.  A channel of kernel w has the variance w' C w, where C is the windows'
    covariance; a bias before the norm cancels.
    """
    centred = windows.double()
    if valid is None:
        count = centred.shape[-2]
        centred = centred - centred.mean(dim=-2, keepdim=True)
    else:
        own = valid[..., None].double()
        count = own.sum(dim=-2, keepdim=True).clamp(min=1)
        centred = (centred - (centred * own).sum(dim=-2, keepdim=True) / count) * own
    covariance = centred.mT @ centred / count
    kernel = weight[:, 0].double()
    variance = ((kernel @ covariance) * kernel).sum(dim=-1)
    kernel = kernel * (gain.double() * (variance + eps).rsqrt())[..., None]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    bias = offset.to(dtype).expand(kernel.shape[:-1])
    return centred.to(dtype), kernel.to(dtype), bias


def convolve(
    windows: Sequence[Tensor], kernels: Tensor, biases: Tensor, layers: Sequence[Layer], frames: int
) -> Tensor:
    """Frames of each utterance, `[batch, frames, C]`, zeros behind its own.

    `windows`: of each utterance, `[its steps, kernel]`; `kernels` `[batch, out, kernel]` and
    `biases` `[batch, out]`: the first convolution, in the windows' type.  `layers`: all of them; of
    the first the weight only tells the type of what follows.
    """
    flat = [tensor for layer in layers for tensor in layer.parameters]
    return _Convolutions.apply(windows, layers, frames, kernels, biases, *flat)


def _rows(x: Tensor, first_tap: int, taps: int, stride: int, steps: int) -> Tensor:
    """Taps `first_tap` to `first_tap + taps` of `steps` windows of `x` `[time, channels]`, which is
    contiguous: `[steps, taps x channels]`, a view."""
    channels = x.shape[1]
    start = x.storage_offset() + first_tap * channels
    return x.as_strided((steps, taps * channels), (stride * channels, 1), start)


class _Product:
    """A layer's convolution as products of rows that do not overlap: `stride` taps at a time."""

    def __init__(self, layer: Layer):
        self.stride, self.kernel = layer.stride, layer.kernel
        self.bias = layer.bias
        self.taps = [(t, min(layer.stride, layer.kernel - t)) for t in self._starts()]
        weight = layer.weight.permute(2, 1, 0)  # [kernel, in, out]
        self.shape = weight.shape
        self.matrices = [weight[t : t + n].reshape(-1, weight.shape[2]) for t, n in self.taps]

    def _starts(self) -> range:
        return range(0, self.kernel, self.stride)

    def steps(self, time: int) -> int:
        """Output steps of `time` input steps."""
        return (time - self.kernel) // self.stride + 1

    def reach(self, start: int, end: int, time: int) -> tuple[int, int]:
        """Input steps below output steps `start` to `end`, up to where the next one's begin."""
        last = max((end - 1) * self.stride + self.kernel, end * self.stride)
        return start * self.stride, min(last, time)

    def forward(self, x: Tensor, out: Tensor) -> None:
        """`x` `[time, in]` -> `out` `[steps, out]`."""
        for (tap, taps), matrix in zip(self.taps, self.matrices):
            rows = _rows(x, tap, taps, self.stride, len(out))
            if tap:
                out.addmm_(rows, matrix)
            elif self.bias is None:
                torch.mm(rows, matrix, out=out)
            else:
                torch.addmm(self.bias, rows, matrix, out=out)

    def backward(self, gradient: Tensor, time: int) -> Tensor:
        """That of `out` `[steps, out]` -> that of `x` `[time, in]`."""
        below = gradient.new_zeros(time, self.shape[1])
        for (tap, taps), matrix in zip(self.taps, self.matrices):
            rows = _rows(below, tap, taps, self.stride, len(gradient))
            if tap:
                rows.addmm_(gradient, matrix.T)
            else:
                torch.mm(gradient, matrix.T, out=rows)
        return below

    def weight_gradient(self, gradient: Tensor, x: Tensor, total: Tensor) -> None:
        """Add to `total` `[kernel, in, out]`, fp32 at least."""
        for tap, taps in self.taps:
            rows = _rows(x, tap, taps, self.stride, len(gradient))
            part = total[tap : tap + taps].view(-1, self.shape[2])
            if total.dtype == x.dtype:
                part.addmm_(rows.T, gradient)
            else:
                part += rows.T @ gradient


class _Activation:
    """The norm, if there is one, and GELU."""

    def __init__(self, layer: Layer):
        _, _, self.gain, self.offset = layer.parameters
        self.eps = 0.0 if self.gain is None else layer.norm.eps

    def forward(self, y: Tensor) -> Tensor:
        """`[time, channels]` -> the same."""
        if self.gain is not None:
            y, _, _ = normalise(y, self.gain, self.offset, self.eps)
        return F.gelu(y)

    def backward(self, y: Tensor, gradient: Tensor, totals: list[Tensor | None]) -> Tensor:
        """The gradient of `y`; those of gain and offset are added to `totals` [2], [3]."""
        if self.gain is None:
            return torch.ops.aten.gelu_backward(gradient, y)
        normal, mean, inverse = normalise(y, self.gain, self.offset, self.eps)
        gradient, gain, offset = normalise_backward(
            torch.ops.aten.gelu_backward(gradient, normal),
            *(y, mean, inverse, self.gain, self.offset),
        )
        totals[2] += gain
        totals[3] += offset
        return gradient


class _Convolutions(torch.autograd.Function):
    """See `convolve`."""

    @staticmethod
    def forward(ctx, windows, layers, frames, kernels, biases, *parameters):  # noqa: ANN001
        dtype, channels = layers[0].weight.dtype, layers[-1].weight.shape[0]
        learns = any(ctx.needs_input_grad)
        products, activations = [_Product(n) for n in layers], [_Activation(n) for n in layers]
        result = torch.zeros(len(windows), frames, channels, dtype=dtype)
        kept: list[Tensor] = []  # of each utterance, the outputs of all convolutions but the first
        for row, view, kernel, bias in zip(result, windows, kernels, biases):
            y, time = None, len(view)
            for index in range(1, len(layers)):
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
            ctx.layers, ctx.windows = layers, windows
            ctx.save_for_backward(kernels, biases, *parameters, *kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # noqa: ANN001
        layers, windows = ctx.layers, ctx.windows
        kernels, biases, *saved = ctx.saved_tensors
        kept = saved[4 * len(layers) :]
        wide = kernels.dtype
        products, activations = [_Product(n) for n in layers], [_Activation(n) for n in layers]
        # Of each layer: weight (as [kernel, in, out]), bias, gain and offset.
        totals = [
            [
                torch.zeros(product.shape, dtype=wide),
                *(None if p is None else torch.zeros_like(p, dtype=wide) for p in rest),
            ]
            for product, (_, *rest) in zip(products, (layer.parameters for layer in layers))
        ]
        first = torch.zeros_like(kernels), torch.zeros_like(biases)
        deep = len(layers) - 1
        for row, view in enumerate(windows):
            ys = [None, *kept[row * deep : (row + 1) * deep]]

            def below(index: int, a: int, b: int, view=view, ys=ys, row=row) -> Tensor:
                """Output steps of a convolution."""
                if index:
                    return ys[index][a:b]
                return _first(view[a:b], kernels[row], biases[row], layers[0].weight.dtype)

            def first_gradient(g: Tensor, a: int, b: int, view=view, row=row) -> None:
                first[0][row].addmm_(g.T.to(wide), view[a:b])
                first[1][row] += g.sum(dim=0, dtype=wide)

            time = len(ys[-1]) if deep else len(view)
            g = gradient[row, :time].contiguous()
            g = activations[-1].backward(below(deep, 0, time), g, totals[-1])
            if not deep:
                first_gradient(g, 0, time)
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
                    y = below(index - 1, a, b)
                    product.weight_gradient(g[start:end], activation.forward(y), totals[index][0])
                    part = product.backward(g[start:end], b - a)
                    if carried is not None:
                        part[: len(carried)] += carried
                    if end < len(g):  # the next stretch has its share in the steps both read
                        own = end * product.stride - a
                        carried, part, y = part[own:].clone(), part[:own], y[:own]
                    part = activation.backward(y, part, totals[index - 1])
                    if down is None:
                        first_gradient(part, a, a + len(part))
                    else:
                        down[a : a + len(part)] = part
                g = down
        gradients = []
        for weight, *rest in totals:
            gradients += [weight.permute(2, 1, 0).contiguous(), *rest]
        gradients = [None if g is None else g.to(layers[0].weight.dtype) for g in gradients]
        gradients[:2] = [None, None]  # they reach the first weight and bias as `kernels`, `biases`
        return None, None, None, *first, *gradients


def _first(windows: Tensor, kernel: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """The first convolution: `[steps, kernel]` -> `[steps, out]`, computed in the windows' type."""
    return torch.addmm(bias, windows, kernel.T).to(dtype)
