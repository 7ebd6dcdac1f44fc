"""Waveform -> frames (arXiv 2006.11477, section 2), and all length arithmetic."""

import itertools
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from wav2vec2.kernels import convolution
from wav2vec2.norms import NORM_EPS, GroupNorm, LayerNorm
from wav2vec2.numerics import at_least_fp32, exact_matmul

TOGETHER = 2**26
"""Elements of the first convolution's output that a GPU holds at a time; those of one row, if it
has more."""

ConvLayers = Sequence[tuple[int, int, int]]
"""(channels, kernel, stride) of each convolution."""

Count = TypeVar("Count", int, Tensor)


def frame_count(samples: Count, conv_layers: ConvLayers) -> Count:
    """Frames that `samples` audio samples give: floor((n - kernel) / stride) + 1 a convolution.

    Takes and returns an int or an integer tensor of any shape; 0 for audio shorter than the
    receptive field.
    """
    count = samples
    for _, kernel, stride in conv_layers:
        count = (count - kernel) // stride + 1
    return count.clamp(min=0) if isinstance(count, Tensor) else max(count, 0)


def sample_count(frames: int, conv_layers: ConvLayers) -> int:
    """The fewest samples that give `frames` frames, 1 or more; of 1, the receptive field."""
    count = frames
    for _, kernel, stride in reversed(conv_layers):
        count = (count - 1) * stride + kernel
    return count


def valid_steps(lengths: Tensor, steps: int, device: torch.device) -> Tensor:
    """`[batch, steps]`, bool on `device`, False from each row's own of `lengths` `[batch]` on.

    Compared there, so that a device waits for no more than the lengths.
    """
    return torch.arange(steps, device=device) < lengths.to(device, non_blocking=True)[:, None]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The identity, whose gradient is multiplied by `factor`."""
    return x if factor == 1.0 else _ScaleGradient.apply(x, factor)


class ConvBlock(nn.Module):
    """Convolution, norm (if any), GELU: `[batch, in, time]` -> `[batch, out, shorter time]`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        *,
        bias: bool,
        norm: Literal["group", "layer"] | None,
    ):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: nn.Module | None = None
        if norm == "group":
            self.norm = GroupNorm(out_channels, out_channels, eps=NORM_EPS)
        elif norm == "layer":
            self.norm = LayerNorm(out_channels, eps=NORM_EPS)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """`lengths` `[batch]` on the CPU: valid steps of the convolution's output, None if all."""
        return self.activate(self.conv(x), lengths)

    def activate(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """What follows the convolution: norm and GELU."""
        if isinstance(self.norm, GroupNorm):
            x = self._group_norm(x, lengths)
        elif self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)

    def _group_norm(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Statistics over an utterance's own steps, so that padding changes nothing.

        A padded row is normalised alone, by the same kernel that would see it unpadded; the steps
        after its end become zeros.
        """
        if lengths is None:
            return self.norm(x)
        steps = x.shape[-1]
        rows = [
            F.pad(self.norm(row[None, :, :n]), (0, steps - n))
            for row, n in zip(x, lengths.clamp(min=1).tolist())
        ]
        return torch.cat(rows)

    def taps(self) -> tuple[Tensor, Tensor]:
        """Kernel `[out, kernel]` and bias `[out]`, zeros if it has none, of a convolution of one
        input channel, in fp32 at least."""
        kernel, bias = at_least_fp32(self.conv.weight[:, 0]), self.conv.bias
        return kernel, kernel.new_zeros(len(kernel)) if bias is None else at_least_fp32(bias)

    def windows(self, waveforms: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the first block's `begin` takes, of waveforms `[batch, samples]`: their windows
        `[batch, steps, kernel + 1]`, ones behind each, and of each row a kernel with its bias,
        `[batch, out, kernel + 1]`, both in fp32 at least.

        A group norm is folded into the kernels, which amplifies what they and the windows are
        rounded by: half precision would not do.  Steps that are not valid come out finite.
        """
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        windows = at_least_fp32(waveforms).unfold(1, kernel, stride)
        if isinstance(norm := self.norm, GroupNorm):
            valid = None
            if lengths is not None:
                valid = valid_steps(lengths, windows.shape[1], windows.device)
            windows, kernels, biases = convolution.fold_group_norm(
                windows, self.conv.weight, norm.weight, norm.bias, norm.eps, valid
            )
        else:
            kernel, bias = self.taps()
            kernels, biases = kernel.expand(len(windows), -1, -1), bias.expand(len(windows), -1)
        # As one more tap, the bias costs no passes of its own over the output.
        return F.pad(windows, (0, 1), value=1.0), torch.cat([kernels, biases[..., None]], dim=2)

    def begin(self, windows: Tensor, kernels: Tensor) -> Tensor:
        """`forward` of the waveforms, from what `windows` gives."""
        x = exact_matmul(kernels, windows.mT).to(self.conv.weight.dtype)
        return F.gelu(x) if isinstance(self.norm, GroupNorm) else self.activate(x, None)


class _Step(nn.Module):
    """From one convolution's output to the next one's: norm, GELU, convolution.

    Norm and GELU cost little but hold as much memory as the rest of the model: for the backward
    pass they are computed again.  So is the first convolution, whose single input channel makes it
    cheap and whose output is the largest; and that for a few rows at a time, or its backward pass
    alone would take more memory than all else.
    """

    def __init__(self, before: ConvBlock, conv: nn.Conv1d):
        """Of modules that belong to a FeatureExtractor."""
        super().__init__()
        self.before, self.conv = before, conv

    def forward(self, *given: Tensor) -> Tensor:
        """Output of `conv`, given that of `before`'s, or what its `windows` gives."""
        if len(given) == 1:
            return self.conv(self.before.activate(*given, None))
        return self.conv(self.before.begin(*given))

    def recomputed(self, *given: Tensor) -> Tensor:
        """The same; only what is given is kept."""
        if not torch.is_grad_enabled():
            return self(*given)
        # Stops short of the convolution, of which only the input is wanted.
        return checkpoint(self, *given, use_reentrant=False, preserve_rng_state=False)

    def by_rows(self, together: int, *given: Tensor) -> Tensor:
        """The same, of so many rows at a time."""
        parts = list(zip(*(t.split(together) for t in given)))
        if len(parts) == 1:
            return self.recomputed(*given)
        if not torch.is_grad_enabled():
            return torch.cat([self(*part) for part in parts])
        # Each part has its own view of a parameter: the gradients of all parts are then summed at
        # once, with one rounding, where a parameter shared by them would round after each.
        views = {
            name: parameter.expand(len(parts), *parameter.shape).unbind()
            for name, parameter in self.named_parameters()
        }

        def run(number: int, *part: Tensor) -> Tensor:
            own = {name: parts_own[number] for name, parts_own in views.items()}
            return functional_call(self, own, part)

        return torch.cat(
            [
                checkpoint(run, number, *part, use_reentrant=False, preserve_rng_state=False)
                for number, part in enumerate(parts)
            ]
        )


class FeatureExtractor(nn.Module):
    """The stack of convolutions: waveforms `[batch, samples]` -> frames `[batch, frames, C]`."""

    def __init__(self, conv_layers: ConvLayers, norm: Literal["group", "layer"], bias: bool):
        """`norm`: `group` normalises after the first convolution only, `layer` after each."""
        super().__init__()
        self.spec = tuple(conv_layers)
        blocks = []
        in_channels = 1
        for index, (channels, kernel, stride) in enumerate(self.spec):
            block_norm = norm if norm == "layer" or index == 0 else None
            blocks.append(
                ConvBlock(in_channels, channels, kernel, stride, bias=bias, norm=block_norm)
            )
            in_channels = channels
        self.conv_layers = nn.ModuleList(blocks)

    @property
    def channels(self) -> int:
        return self.spec[-1][0]

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames of `waveforms` `[batch, samples]`, `[batch, frames, C]`.

        `lengths` `[batch]`, int64 on the CPU: samples of each row, zeros following; None when no
        row is padded.  Valid frames depend on valid samples alone.
        """
        weight = self.conv_layers[0].conv.weight
        if convolution.kernel_for(weight, waveforms) == "products":
            return self._by_products(waveforms, lengths)
        return self._by_conv1d(waveforms, lengths).transpose(1, 2)

    def _by_conv1d(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """`[batch, samples]` -> `[batch, C, frames]`."""
        first, *others = self.conv_layers
        # Of all blocks the first alone may have a norm over time, which asks what is padding.
        valid = None if lengths is None else frame_count(lengths, self.spec[:1])
        if not others or torch.compiler.is_compiling():
            x = first(waveforms[:, None].to(first.conv.weight.dtype), valid)
            for block in others:
                x = block(x, None)
            return x
        largest = self.spec[0][0] * frame_count(waveforms.shape[1], self.spec[:1])
        together = max(1, TOGETHER // max(1, largest))
        x = _Step(first, others[0].conv).by_rows(together, *first.windows(waveforms, valid))
        for before, block in itertools.pairwise(others):
            x = _Step(before, block.conv).recomputed(x)
        return others[-1].activate(x, None)

    def _by_products(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """The same, each row from its own samples alone, by convolution.py."""
        samples = waveforms.shape[1]
        frames, least = frame_count(samples, self.spec), sample_count(1, self.spec)
        counts = [samples] * len(waveforms) if lengths is None else lengths.tolist()
        block, (_, kernel, stride) = self.conv_layers[0], self.spec[0]
        wide = at_least_fp32(waveforms).to(
            torch.promote_types(block.conv.weight.dtype, torch.float32)
        )
        windows = [row[: max(n, least)].unfold(0, kernel, stride) for row, n in zip(wide, counts)]
        norm = block.norm
        if isinstance(norm, GroupNorm):
            folded = [
                convolution.fold_group_norm(w, block.conv.weight, norm.weight, norm.bias, norm.eps)
                for w in windows
            ]
            windows, kernels, biases = zip(*folded)
        else:
            kernel, bias = block.taps()
            windows = [w.contiguous() for w in windows]
            kernels, biases = [kernel] * len(windows), [bias] * len(windows)
        layers = [
            convolution.Layer(stride, block.conv.weight, block.conv.bias, block.norm)
            for block, (_, _, stride) in zip(self.conv_layers, self.spec)
        ]
        return convolution.convolve(
            windows, torch.stack(kernels), torch.stack(biases), layers, frames
        )
