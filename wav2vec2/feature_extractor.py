"""Waveform -> frames (arXiv 2006.11477, section 2), and all length arithmetic."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wav2vec2 import convolution
from wav2vec2.numerics import at_least_fp32

NORM_EPS = 1e-5
"""eps of every LayerNorm and GroupNorm in the model."""

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


class GroupNorm(nn.GroupNorm):
    """Statistics in fp32 at least: torch's kernels round those of half precision to 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, time]` -> the same, in its own type."""
        weight, bias = at_least_fp32(self.weight), at_least_fp32(self.bias)
        y = F.group_norm(at_least_fp32(x), self.num_groups, weight, bias, self.eps)
        return y.to(x.dtype)


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
            self.norm = nn.LayerNorm(out_channels, eps=NORM_EPS)

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
        return self._by_conv1d(waveforms[:, None].to(weight.dtype), lengths).transpose(1, 2)

    def _by_conv1d(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """`[batch, 1, samples]` -> `[batch, C, frames]`.

        Between two convolutions lie a norm and GELU, which cost little but hold as much memory as
        the rest of the model: for the backward pass they are computed again.  So is the first
        convolution, whose single input channel makes it cheap and whose output is the largest.
        """
        blocks = self.conv_layers
        valid = [None] * len(blocks)
        if lengths is not None:
            valid = [frame_count(lengths, self.spec[:n]) for n in range(1, len(blocks) + 1)]

        def convolve(x: Tensor, index: int) -> Tensor:
            """Output of convolution `index` from that of the one before; from the waveforms, if
            that is the first."""
            if index == 1:
                x = blocks[0].conv(x)
            return blocks[index].conv(blocks[index - 1].activate(x, valid[index - 1]))

        recompute = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if len(blocks) == 1:
            x = blocks[0].conv(x)
        for index in range(1, len(blocks)):
            if recompute:
                # Stops short of the convolution, of which only the input is wanted.
                x = checkpoint(convolve, x, index, use_reentrant=False, preserve_rng_state=False)
            else:
                x = convolve(x, index)
        return blocks[-1].activate(x, valid[-1])

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
            kernel, bias = at_least_fp32(block.conv.weight[:, 0]), block.conv.bias
            bias = kernel.new_zeros(len(kernel)) if bias is None else at_least_fp32(bias)
            windows = [w.contiguous() for w in windows]
            kernels, biases = [kernel] * len(windows), [bias] * len(windows)
        layers = [
            convolution.Layer(stride, block.conv.weight, block.conv.bias, block.norm)
            for block, (_, _, stride) in zip(self.conv_layers, self.spec)
        ]
        return convolution.convolve(
            windows, torch.stack(kernels), torch.stack(biases), layers, frames
        )
