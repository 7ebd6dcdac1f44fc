"""Hourglass encoder (arXiv 2110.13711): the middle layers run on shortened sequences."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from wav2vec2.encoder import TransformerLayer, encoder_linear, run_layers, zero_padding


class HourglassStack(nn.Module):
    """Transformer layers, of which the middle ones run on pooled frames.

    Interface, parameter names and LayerDrop's layer numbers are those of TransformerStack.
    `factor` may be changed at any time if the resampling is naive, which has no parameters.
    """

    def __init__(
        self,
        layers: Sequence[TransformerLayer],
        *,
        dim: int,
        pre: int,
        middle: int,
        factor: int,
        resampling: Literal["naive", "linear"],
    ):
        """`pre`, `middle`: numbers of layers; the rest of `layers` comes after up-sampling."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.pre, self.post_start = pre, pre + middle
        self.factor = factor
        self.shorten_linear = self.upsample_linear = None
        if resampling == "linear":
            self.shorten_linear = encoder_linear(factor * dim, dim)
            self.upsample_linear = encoder_linear(dim, factor * dim)

    def forward(
        self, x: Tensor, valid: Tensor | None, kept_layers: Sequence[bool] | None = None
    ) -> Tensor:
        """`[batch, frames, D]` -> the same; see TransformerStack."""
        kept = kept_layers if kept_layers is not None else [True] * len(self.layers)
        a, b = self.pre, self.post_start
        x = run_layers(self.layers[:a], x, valid, kept[:a])
        # Padded frames must be zero before pooling, or an utterance's result would depend on the
        # other utterances in the batch.
        short = self.shorten(zero_padding(x, valid))
        short = run_layers(self.layers[a:b], short, self.shorten_valid(valid), kept[a:b])
        x = x + self.upsample(short, x.shape[1])
        return run_layers(self.layers[b:], x, valid, kept[b:])

    def shorten(self, x: Tensor) -> Tensor:
        """Pool frames: `[batch, frames, D]` -> `[batch, ceil(frames / factor), D]`."""
        batch, frames, dim = x.shape
        short = self._short(frames)
        x = F.pad(x, (0, 0, 0, short * self.factor - frames))
        if self.shorten_linear is not None:
            return self.shorten_linear(x.reshape(batch, short, self.factor * dim))
        return x.view(batch, short, self.factor, dim).mean(dim=2)

    def _short(self, frames: int) -> int:
        """ceil(frames / factor), written for torch.export, where `frames` is a symbol."""
        return (frames + self.factor - 1) // self.factor

    def shorten_valid(self, valid: Tensor | None) -> Tensor | None:
        """Pool the mask: a shortened frame is padding only if all its frames are."""
        if valid is None:
            return None
        batch, frames = valid.shape
        short = self._short(frames)
        padded = F.pad(valid, (0, short * self.factor - frames))
        return padded.view(batch, short, self.factor).any(dim=2)

    def upsample(self, x: Tensor, frames: int) -> Tensor:
        """Back to the full rate: `[batch, ceil(frames / factor), D]` -> `[batch, frames, D]`."""
        batch, short, dim = x.shape
        if self.upsample_linear is not None:
            x = self.upsample_linear(x).view(batch, short * self.factor, dim)
        else:
            x = x.repeat_interleave(self.factor, dim=1)
        return x[:, :frames]
