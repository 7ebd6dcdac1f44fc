"""Matrix products in 8 bits for inference on CPUs with VNNI, by torch's quantised kernel.

Weights are integers from -127 to 127 with a factor per output channel.  Activations are rounded in
each call, with a factor per row: a frame's result depends on no other frame of its product.  Norms,
GELU, attention, the first and the positional convolution and the output layer stay in fp32 or bf16.
"""

import functools

import torch
from torch import Tensor, nn

from wav2vec2.encoder import SelfAttention, TransformerLayer
from wav2vec2.feature_extractor import FeatureExtractor
from wav2vec2.kernels.attention import CpuSelfAttention
from wav2vec2.kernels.convolution import CpuFeatureExtractor, Product
from wav2vec2.numerics import TYPES, Precision
from wav2vec2.trunk import Wav2Vec2

LEVELS = 126
"""Largest rounded activation.  In bf16 the factor is rounded, so a row's largest may become 127."""

ZERO = 128
"""What stands for 0: the kernel takes activations as unsigned bytes."""

ROWS = 512
"""Rows of a product computed at a time, so that what is rounded stays in the cache."""


class Int8Product:
    """`x @ weight.T + bias` with a weight `[out, in]` in 8 bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        """`dtype`: type of the activations, fp32 or bf16."""
        weight = weight.detach().float()
        self.scales = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        self.bias = bias.to(dtype)

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """`x` `[rows, in]` -> `out` `[rows, out]`."""
        for start in range(0, len(x), ROWS):
            rows, scales = round_rows(x[start : start + ROWS])
            product = torch.ops.onednn.qlinear_pointwise(
                *(rows, 1.0, ZERO, self.weight, self.scales, self.zeros, None),
                *(1.0, 0, x.dtype, "none", [], ""),
            )
            torch.addcmul(self.bias, product, scales, out=out[start : start + ROWS])
        return out


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round `x` `[rows, in]` to bytes; and each row's factor `[rows, 1]` to multiply them with."""
    largest = x.abs().amax(dim=1, keepdim=True)
    inverse = LEVELS / largest.clamp(min=1e-12)
    rounded = (x * inverse).round_().to(torch.int8)
    # Adding half of the range makes a signed byte an unsigned one with the same order.
    return rounded.add_(-ZERO).view(torch.uint8), inverse.reciprocal()


class Int8Linear(nn.Module):
    """A linear layer in 8 bits."""

    def __init__(self, *layers: nn.Linear, dtype: torch.dtype):
        """Of several layers with the same input, the outputs follow one another."""
        super().__init__()
        weight = torch.cat([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers]
        self.outputs = len(weight)
        self.product = Int8Product(weight, None if biases[0] is None else torch.cat(biases), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        out = x.new_empty(*x.shape[:-1], self.outputs)
        self.product(x.reshape(-1, x.shape[-1]), out.view(-1, self.outputs))
        return out


class Int8SelfAttention(CpuSelfAttention):
    """Rounds its input once for queries, keys and values."""

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv_proj(x).chunk(3, dim=-1)


class _Int8Convolution(Product):
    """A block's convolution as one product of overlapping windows, in 8 bits."""

    def __init__(self, block: nn.Module, dtype: torch.dtype):
        super().__init__(block)
        del self.matrices
        kernel, inputs, outputs = self.shape
        weight = block.conv.weight.permute(0, 2, 1).reshape(outputs, kernel * inputs)
        self.product = Int8Product(weight, self.bias, dtype)

    def forward(self, x: Tensor, out: Tensor) -> None:
        """`x` `[time, in]` -> `out` `[steps, out]`."""
        self.product(self.rows(x, 0, self.kernel, len(out)), out)


class Int8FeatureExtractor(CpuFeatureExtractor):
    """All convolutions but the first in 8 bits."""

    def products(self) -> list[Product]:
        return self.int8_products


@functools.cache
def why_unsupported() -> str:
    """Why this machine cannot run the model in 8 bits; empty if it can."""
    if not torch.cpu._is_vnni_supported():
        return "it needs an x86 CPU with AVX512-VNNI"
    x, weight = torch.arange(-6.0, 6).view(2, 6), torch.arange(-9.0, 9).view(3, 6)
    try:
        found = Int8Product(weight, None, x.dtype)(x, torch.empty(2, 3))
    except (RuntimeError, AttributeError) as error:
        return str(error).splitlines()[0][:120]
    return "" if torch.allclose(found, x @ weight.T, atol=2) else "torch's product is wrong"


def activation_precision() -> Precision:
    """The type of what is not in 8 bits: bf16 where the CPU multiplies in it, else fp32."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def quantise(model: nn.Module, precision: Precision) -> None:
    """Round the weights of a model on the CPU, in fp32, to 8 bits; it can only infer from then on.

    `precision`: what the other weights are cast to afterwards.
    """
    dtype = TYPES[precision]
    for module in list(model.modules()):
        if isinstance(module, SelfAttention):
            layers = (module.q_proj, module.k_proj, module.v_proj)
            module.qkv_proj = Int8Linear(*layers, dtype=dtype)
            module.out_proj = Int8Linear(module.out_proj, dtype=dtype)
            del module.q_proj, module.k_proj, module.v_proj
            module.__class__ = Int8SelfAttention
        elif isinstance(module, TransformerLayer):
            module.fc1 = Int8Linear(module.fc1, dtype=dtype)
            module.fc2 = Int8Linear(module.fc2, dtype=dtype)
        elif isinstance(module, FeatureExtractor):
            module.int8_products = [
                Product(module.conv_layers[0]),
                *(_Int8Convolution(block, dtype) for block in module.conv_layers[1:]),
            ]
            module.__class__ = Int8FeatureExtractor
        elif isinstance(module, Wav2Vec2) and module.post_extract_proj is not None:
            module.post_extract_proj = Int8Linear(module.post_extract_proj, dtype=dtype)
