"""Context network: positional convolution and transformer (arXiv 2006.11477, section 2)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from wav2vec2 import kernels
from wav2vec2.kernels.attention import attend
from wav2vec2.kernels.dropout import Dropout
from wav2vec2.kernels.gelu import gelu_of
from wav2vec2.norms import NORM_EPS, LayerNorm
from wav2vec2.numerics import at_least_fp32

LINEAR_STD = 0.02
"""Deviation of the initial weights of every linear layer inside the encoder; biases start at 0."""

VARIANTS = 64
"""Most graphs that torch.compile may make of a layer; beyond, it would run the layer as it is."""


def encoder_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with the encoder's initialisation."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=LINEAR_STD)
    nn.init.zeros_(linear.bias)
    return linear


def draw_kept_layers(layers: int, probability: float, generator: torch.Generator) -> list[bool]:
    """LayerDrop (arXiv 1909.11556): for each layer, whether this update runs it.

    Drawn once an update from a generator keyed by it, so every process and micro-batch agrees.
    """
    return (torch.rand(layers, generator=generator) >= probability).tolist()


def zero_padding(x: Tensor, valid: Tensor | None) -> Tensor:
    """Zero the frames of `x` `[batch, frames, D]` that are not `valid` `[batch, frames]`."""
    return x if valid is None else x.masked_fill(~valid[..., None], 0.0)


class PositionalConvolution(nn.Module):
    """Relative position from a wide grouped convolution, weight-normalised over kernel taps."""

    keeps_fp32 = True
    """Half precision leaves its parameters alone: the norm of a tap sums thousands of squares."""

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4.0 / (kernel * dim)))
        nn.init.zeros_(conv.bias)
        self.conv = parametrizations.weight_norm(conv, name="weight", dim=2)  # gain [1, 1, kernel]

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, frames, D]` -> `[batch, frames, D]`, to be added to the input."""
        frames = x.shape[1]
        weight, bias = at_least_fp32(self.conv.weight), at_least_fp32(self.conv.bias)
        with torch.autocast(x.device.type, enabled=False):
            y = self._convolve(at_least_fp32(x).transpose(1, 2), weight, bias)
        # An even kernel gives one frame too many.
        return F.gelu(y[..., :frames]).transpose(1, 2).to(x.dtype)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`[batch, D, frames]`, whose channels lie together, -> `[batch, D, frames or one more]`.

        On CPUs in two dimensions, where torch leaves them together; its one-dimensional kernel
        reorders them first, which takes nearly as long as the convolution.
        """
        padding, groups = self.conv.padding[0], self.conv.groups
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.conv1d(x, weight, bias, padding=padding, groups=groups)
        x, weight = (
            t[:, :, None].contiguous(memory_format=torch.channels_last) for t in (x, weight)
        )
        return F.conv2d(x, weight, bias, padding=(0, padding), groups=groups)[:, :, 0]


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

        mixed = attend(
            split(self.q_proj(x)),
            split(self.k_proj(x)),
            split(self.v_proj(x)),
            valid,
            self.dropout if self.training else 0.0,
        )
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, frames, dim))


class TransformerLayer(nn.Module):
    """Attention and feed-forward blocks, each with its residual and LayerNorm."""

    recomputed = False
    """Whether the backward pass computes the layer again, so that only its input is kept."""

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
    ):
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = SelfAttention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = LayerNorm(dim, eps=NORM_EPS)
        self.fc1 = encoder_linear(dim, ffn_dim)
        self.fc2 = encoder_linear(ffn_dim, dim)
        self.final_layer_norm = LayerNorm(dim, eps=NORM_EPS)
        self.dropout = Dropout(dropout)
        self.activation_dropout = Dropout(activation_dropout)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`[batch, frames, D]` -> the same; `valid` `[batch, frames]` or None for all."""
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), valid))
            return x + self.dropout(self._feed_forward(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, valid)))
        return self.final_layer_norm(x + self.dropout(self._feed_forward(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation_dropout(gelu_of(self.fc1, x)))


def run_layers(
    layers: Sequence[TransformerLayer], x: Tensor, valid: Tensor | None, kept: Sequence[bool] | None
) -> Tensor:
    """Layers one after the other, without those LayerDrop skips; `kept` None runs all."""
    for index, layer in enumerate(layers):
        if kept is None or kept[index]:
            if layer.recomputed and torch.is_grad_enabled():
                x = checkpoint(layer, x, valid, use_reentrant=False)  # the same dropout masks
            else:
                x = layer(x, valid)
    return x


def compile_layers(model: nn.Module) -> None:
    """Have torch.compile fuse what lies between the matrix products of `model`'s layers.

    One graph serves all layers, batches and lengths; LayerDrop, resampling and recomputation stay
    outside of it.  Where a trial fails, as without a compiler, the layers stay as they are, with a
    warning.
    """
    like = next(model.parameters())

    def trial() -> None:
        options = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
        layer = TransformerLayer(16, 16, 2, norm_first=False, **options).to(like.device)
        layer.compile(dynamic=True)
        layer(torch.ones(2, 3, 16, device=like.device), None).sum().backward()

    # All layers share their code's variants: with a mask and without, in training and evaluation,
    # frozen or not, of one row or more.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, VARIANTS)
    chosen = kernels.choose("transformer layers", "torch.compile", "eager", trial)
    torch._dynamo.reset()  # the trial's variants are nobody's
    if chosen == "torch.compile":
        for module in model.modules():
            if isinstance(module, TransformerLayer):
                module.compile(dynamic=True)


class TransformerStack(nn.Module):
    """The plain encoder's layers."""

    def __init__(self, layers: Sequence[TransformerLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Tensor, valid: Tensor | None, kept_layers: Sequence[bool] | None = None
    ) -> Tensor:
        """`[batch, frames, D]` -> the same.

        `valid` `[batch, frames]` is False on padding, None when there is none; `kept_layers` says
        for each layer whether to run it (LayerDrop), None runs all.
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
        self.layer_norm = LayerNorm(dim, eps=NORM_EPS)
        self.dropout = Dropout(dropout)
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
