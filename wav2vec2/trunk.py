"""The trunk that pre-training and fine-tuning share: waveform -> context vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wav2vec2.config import Architecture, Regularisation
from wav2vec2.encoder import Encoder, TransformerLayer, TransformerStack, dropout_module
from wav2vec2.feature_extractor import FeatureExtractor, frame_count, scale_gradient, valid_steps
from wav2vec2.hourglass import HourglassStack
from wav2vec2.numerics import LayerNorm


def build_encoder(architecture: Architecture, regularisation: Regularisation) -> Encoder:
    """Build the plain or the hourglass encoder of a configuration."""
    layers = [
        TransformerLayer(
            architecture.dim,
            architecture.ffn_dim,
            architecture.heads,
            norm_first=architecture.norm_first,
            dropout=regularisation.dropout,
            attention_dropout=regularisation.attention_dropout,
            activation_dropout=regularisation.activation_dropout,
            adapter_dim=architecture.adapter_dim,
        )
        for _ in range(architecture.layers)
    ]
    hourglass = architecture.hourglass
    stack: nn.Module
    if hourglass is None:
        stack = TransformerStack(layers)
    else:
        stack = HourglassStack(
            layers,
            dim=architecture.dim,
            pre=hourglass.pre,
            middle=hourglass.middle,
            factor=hourglass.factor,
            resampling=hourglass.resampling,
        )
    return Encoder(
        stack,
        dim=architecture.dim,
        position_kernel=architecture.position_kernel,
        position_groups=architecture.position_groups,
        norm_first=architecture.norm_first,
        dropout=regularisation.dropout,
    )


@dataclass
class Frames:
    """The extractor's frames of a batch: the encoder's input."""

    raw: Tensor
    """`[batch, frames, C]`: the extractor's output, before LayerNorm (features penalty)."""
    features: Tensor
    """`[batch, frames, C]`: normalised; the quantizer's input."""
    valid: Tensor | None
    """`[batch, frames]`, bool on the device; None if no frame is padding."""
    counts: Tensor | None
    """`[batch]`, int64 on the CPU: number of valid frames of each row; None if none is padding."""


class Wav2Vec2(nn.Module):
    """Feature extractor, projection, mask vector and encoder."""

    def __init__(
        self,
        feature_extractor: FeatureExtractor,
        encoder: Encoder,
        *,
        dim: int,
        dropout_input: float,
        feature_grad_mult: float,
    ):
        super().__init__()
        channels = feature_extractor.channels
        self.feature_extractor = feature_extractor
        self.layer_norm = LayerNorm(channels)
        self.post_extract_proj = nn.Linear(channels, dim) if channels != dim else None
        self.dropout_input = dropout_module(dropout_input)
        self.mask_emb = nn.Parameter(torch.empty(dim).uniform_())
        self.encoder = encoder
        self.feature_grad_mult = feature_grad_mult

    @classmethod
    def from_config(cls, architecture: Architecture, regularisation: Regularisation) -> "Wav2Vec2":
        return cls(
            FeatureExtractor(
                architecture.conv_layers, architecture.extractor_norm, architecture.conv_bias
            ),
            build_encoder(architecture, regularisation),
            dim=architecture.dim,
            dropout_input=regularisation.dropout_input,
            feature_grad_mult=regularisation.feature_grad_mult,
        )

    def frames(self, samples: Tensor) -> Tensor:
        """Number of frames that `samples` (any shape) give."""
        return frame_count(samples, self.feature_extractor.spec)

    def set_factor(self, factor: int | None) -> None:
        """Shorten by `factor` from now on; None, for a model with one factor, changes nothing."""
        if factor is None:
            return
        stack = self.encoder.stack
        assert isinstance(stack, HourglassStack) and stack.shorten_linear is None
        stack.factor = factor

    def extract(self, waveforms: Tensor, lengths: Tensor | None) -> Frames:
        """Waveforms `[batch, samples]` -> frames.

        `lengths` `[batch]`, int64 on the CPU: samples of each row, at least the receptive field;
        None if no row is padded.
        """
        if lengths is not None and bool((lengths == waveforms.shape[1]).all()):
            lengths = None
        learns = torch.is_grad_enabled() and self.feature_grad_mult > 0
        with torch.set_grad_enabled(learns):
            raw = self.feature_extractor(waveforms, lengths)
        if learns:
            raw = scale_gradient(raw, self.feature_grad_mult)
        counts = None if lengths is None else self.frames(lengths)
        # Rows of different lengths may have equally many frames; attention then needs no mask.
        if counts is not None and bool((counts == raw.shape[1]).all()):
            counts = None
        valid = None if counts is None else valid_steps(counts, raw.shape[1], raw.device)
        return Frames(raw=raw, features=self.layer_norm(raw), valid=valid, counts=counts)

    def encode(
        self,
        frames: Frames,
        *,
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        kept_layers: Sequence[bool] | None = None,
    ) -> Tensor:
        """Frames -> context vectors `[batch, frames, D]`.

        The mask vector replaces the frames of `time_mask` `[batch, frames]`; then the channels of
        `channel_mask` `[batch, D]` become zeros.  `kept_layers`: see TransformerStack.
        """
        x = frames.features
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        x = self.dropout_input(x)
        if time_mask is not None:
            x = torch.where(time_mask[..., None], self.mask_emb.to(x.dtype), x)
        if channel_mask is not None:
            x = x.masked_fill(channel_mask[:, None], 0.0)
        return self.encoder(x, frames.valid, kept_layers)
