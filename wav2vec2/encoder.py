"""Context network: positional convolution and transformer (arXiv 2006.11477, section 2)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from wav2vec2.numerics import LayerNorm, fp32_conv1d

LINEAR_STD = 0.02
"""Standard deviation of the initial weights of the encoder's linear layers; biases start at 0."""


def encoder_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with the encoder's initialisation."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=LINEAR_STD)
    nn.init.zeros_(linear.bias)
    return linear


def dropout_module(probability: float) -> nn.Module:
    """torch's dropout; the identity for 0, for which torch would still draw and keep a mask."""
    return nn.Dropout(probability) if probability > 0 else nn.Identity()


def draw_kept_layers(layers: int, probability: float, generator: torch.Generator) -> list[bool]:
    """LayerDrop (arXiv 1909.11556): draw for each layer whether this update runs it.

    Drawn once per update from a generator keyed by it, so every process and micro-batch agrees.
    """
    return (torch.rand(layers, generator=generator) >= probability).tolist()


def zero_padding(x: Tensor, valid: Tensor | None) -> Tensor:
    """Zero the frames of `x` `[batch, frames, D]` that are not `valid` `[batch, frames]`."""
    return x if valid is None else x.masked_fill(~valid[..., None], 0.0)


class PositionalConvolution(nn.Module):
    """Relative positions from a wide grouped convolution, weight-normalised per kernel tap."""

    keeps_fp32 = True
    """Its parameters stay fp32 in half precision: a tap's norm sums thousands of squares."""

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4.0 / (kernel * dim)))
        nn.init.zeros_(conv.bias)
        self.conv = parametrizations.weight_norm(conv, name="weight", dim=2)  # gain [1, 1, kernel]

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, frames, D]` -> `[batch, frames, D]`, to be added to the input."""
        y = fp32_conv1d(x.transpose(1, 2), self.conv)  # [batch, D, frames or one more]
        y = y[..., : x.shape[1]]  # an even kernel gives one frame too many
        return F.gelu(y).transpose(1, 2).to(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head attention, scores scaled by head_dim^-0.5, dropout on the attention weights."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q_proj = encoder_linear(dim, dim)
        self.k_proj = encoder_linear(dim, dim)
        self.v_proj = encoder_linear(dim, dim)
        self.out_proj = encoder_linear(dim, dim)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`[batch, frames, D]` -> the same; frames that are not `valid` are not attended to."""
        batch, frames, dim = x.shape

        def split(y: Tensor) -> Tensor:  # [batch, frames, D] -> [batch, heads, frames, D / heads]
            return y.view(batch, frames, self.heads, -1).transpose(1, 2)

        q, k, v = map(split, self.project(x))
        mixed = self.attend(q, k, v, valid, self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, frames, dim))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of `x`, each of its shape."""
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, dropout: float
    ) -> Tensor:
        """Attention of `q` to `k` and `v`, all `[batch, heads, frames, d]` -> the same shape."""
        mask = None if valid is None else valid[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


class Adapter(nn.Module):
    """A small bottleneck that fits a layer to a language (MMS, arXiv 2305.13516, section 4.3)."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.norm = LayerNorm(dim)
        self.linear_1 = encoder_linear(dim, inner)
        self.linear_2 = encoder_linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`, to be added to the input."""
        return self.linear_2(F.relu(self.linear_1(self.norm(x))))


class TransformerLayer(nn.Module):
    """Attention and feed-forward blocks, each with its residual and LayerNorm."""

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        *,
        norm_first: bool,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        adapter_dim: int | None = None,
    ):
        """`adapter_dim`: inner width of an Adapter at the end of a pre-LN layer; None: none."""
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = SelfAttention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = LayerNorm(dim)
        self.fc1 = encoder_linear(dim, ffn_dim)
        self.fc2 = encoder_linear(ffn_dim, dim)
        self.final_layer_norm = LayerNorm(dim)
        self.dropout = dropout_module(dropout)
        self.activation_dropout = dropout_module(activation_dropout)
        self.adapter = Adapter(dim, adapter_dim) if adapter_dim else None

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`[batch, frames, D]` -> the same; `valid` `[batch, frames]` or None for all."""
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), valid))
            x = x + self.dropout(self.feed_forward(self.final_layer_norm(x)))
            return x if self.adapter is None else x + self.adapter(x)
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, valid)))
        return self.final_layer_norm(x + self.dropout(self.feed_forward(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Two linear layers with GELU between them, `[..., D]` -> `[..., D]`."""
        return self.fc2(self.activation_dropout(F.gelu(self.fc1(x))))


def run_layers(
    layers: Sequence[TransformerLayer], x: Tensor, valid: Tensor | None, kept: Sequence[bool] | None
) -> Tensor:
    """Run layers one after the other, except those LayerDrop skips; `kept` None runs all."""
    for index, layer in enumerate(layers):
        if kept is None or kept[index]:
            x = layer(x, valid)
    return x


class TransformerStack(nn.Module):
    """The transformer layers of the plain encoder."""

    def __init__(self, layers: Sequence[TransformerLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Tensor, valid: Tensor | None, kept_layers: Sequence[bool] | None = None
    ) -> Tensor:
        """`[batch, frames, D]` -> the same.

        `valid` `[batch, frames]` is False on padding, None if there is none.  `kept_layers`: for
        each layer, whether to run it (LayerDrop); None runs all.
        """
        return run_layers(self.layers, x, valid, kept_layers)


class Encoder(nn.Module):
    """Positional convolution, LayerNorm (first if post-LN, last if pre-LN), and a stack."""

    def __init__(
        self,
        stack: nn.Module,
        *,
        dim: int,
        position_kernel: int,
        position_groups: int,
        norm_first: bool,
        dropout: float,
    ):
        """`stack`: a TransformerStack or HourglassStack of width `dim`."""
        super().__init__()
        self.norm_first = norm_first
        self.pos_conv = PositionalConvolution(dim, position_kernel, position_groups)
        self.layer_norm = LayerNorm(dim)
        self.dropout = dropout_module(dropout)
        self.stack = stack

    def forward(
        self, x: Tensor, valid: Tensor | None, kept_layers: Sequence[bool] | None = None
    ) -> Tensor:
        """`[batch, frames, D]` -> context vectors of the same shape; see TransformerStack."""
        x = zero_padding(x, valid)
        x = x + self.pos_conv(x)
        if not self.norm_first:
            x = self.layer_norm(x)
        x = self.stack(self.dropout(x), valid, kept_layers)
        return self.layer_norm(x) if self.norm_first else x
