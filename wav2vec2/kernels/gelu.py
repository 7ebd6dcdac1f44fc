"""GELU of a linear layer; on CPUs in bf16, without gradients, by one fused kernel."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wav2vec2 import kernels


def gelu_of(linear: nn.Linear, x: Tensor) -> Tensor:
    """GELU(`linear`(x)): `[..., in]` -> `[..., out]`."""
    if kernel_for(x) == "fused":
        return _fused(x, linear.weight, linear.bias)
    return F.gelu(linear(x))


def kernel_for(x: Tensor) -> str:
    """`fused`, or by `torch`'s two kernels, between which the wide layer goes through memory.

    In fp32 torch has nothing to fuse with, and for gradients GELU's input is needed.
    """
    if (
        x.device.type != "cpu"
        or x.dtype != torch.bfloat16
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    ):
        return "torch"
    return _cpu_kernel()


@functools.cache
def _cpu_kernel() -> str:
    def trial() -> None:
        x = torch.ones(2, 3, 16, dtype=torch.bfloat16)
        _fused(x, x.new_ones(32, 16), x.new_ones(32))

    return kernels.choose("GELU of linear layers of torch.bfloat16", "fused", "torch", trial)


def _fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
