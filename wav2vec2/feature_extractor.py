"""Feature encoder: waveform -> frames (arXiv 2006.11477, section 2), and its length arithmetic."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wav2vec2.numerics import GroupNorm, LayerNorm

ConvLayers = Sequence[tuple[int, int, int]]
"""(channels, kernel, stride) of each convolution."""

Count = TypeVar("Count", int, Tensor)


def frame_count(samples: Count, conv_layers: ConvLayers) -> Count:
    """Number of frames that `samples` audio samples give.

    Each convolution gives floor((n - kernel) / stride) + 1 steps.  Takes and returns an int or an
    integer tensor of any shape; 0 for audio shorter than the receptive field.
    """
    count = samples
    for _, kernel, stride in conv_layers:
        count = (count - kernel) // stride + 1
    return count.clamp(min=0) if isinstance(count, Tensor) else max(count, 0)


def sample_count(frames: int, conv_layers: ConvLayers) -> int:
    """Smallest number of samples that gives `frames` frames (at least 1).

    For one frame this is the receptive field.
    """
    count = frames
    for _, kernel, stride in reversed(conv_layers):
        count = (count - 1) * stride + kernel
    return count


def valid_steps(lengths: Tensor, steps: int, device: torch.device) -> Tensor:
    """Mask `[batch, steps]`, bool on `device`: True on the first `lengths` `[batch]` steps.

    The comparison runs on `device`, so nothing waits for the device.
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
    """Return `x` unchanged; its gradient is multiplied by `factor`."""
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
            self.norm = GroupNorm(out_channels)
        elif norm == "layer":
            self.norm = LayerNorm(out_channels)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """`valid` `[batch, shorter time]` is False on padding of the output, None if there is none.

        Only a group norm needs it, because its statistics are over time.
        """
        return self.activate(self.conv(x), valid)

    def activate(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Apply what follows the convolution: the norm and GELU."""
        if isinstance(self.norm, GroupNorm):
            x = self.norm(x, valid)
        elif self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


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
        """`[batch, samples]` -> `[batch, frames, C]`.

        `lengths` `[batch]`, int64 on the CPU: samples of each row, followed by zeros; None when no
        row is padded.  Each length is at least the receptive field (`sample_count(1, ...)`).  Valid
        frames depend on valid samples only.
        """
        x = waveforms[:, None].to(self.conv_layers[0].conv.weight.dtype)  # [batch, 1, samples]
        valid = self.first_valid(waveforms, lengths)
        for block in self.conv_layers:
            x = block(x, valid)  # [batch, channels, time]
            valid = None  # only the first block has a norm over time
        return x.transpose(1, 2)

    def first_valid(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Which steps of the first convolution's output are not padding; None if all are valid."""
        if lengths is None:
            return None
        steps = frame_count(waveforms.shape[1], self.spec[:1])
        return valid_steps(frame_count(lengths, self.spec[:1]), steps, waveforms.device)
