"""The extractor's first convolution with its group norm folded into its kernel, in fp32.

The first convolution sees a single channel, so it is a product of windows of the waveform with a
small matrix.  The variance of a channel follows from the windows' covariance.  So the norm does
not read the convolution's output, which is the largest tensor of the model.
"""

import torch
from torch import Tensor

from wav2vec2.feature_extractor import ConvBlock
from wav2vec2.numerics import GroupNorm, at_least_fp32


def fold_first(
    block: ConvBlock, windows: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Express the first block's convolution, and its group norm if it has one, as one product.

    `windows` `[..., steps, kernel]` of one or several utterances; `valid` `[..., steps]` is False
    on padding, None if there is none.  Returns the windows to use, the kernel `[..., out, kernel]`
    and the bias `[..., out]`.  All are fp32, or wider if the weights are, because a group norm
    amplifies the rounding errors of quiet channels.
    """
    weight, norm = block.conv.weight, block.norm
    wide = torch.promote_types(weight.dtype, torch.float32)
    if isinstance(norm, GroupNorm):
        windows, kernel = _normalised(windows, weight, norm, valid)
        bias = norm.bias
    else:
        kernel, bias = at_least_fp32(weight[:, 0]), block.conv.bias
        kernel = kernel.expand(*windows.shape[:-2], *kernel.shape)
        bias = kernel.new_zeros(kernel.shape[-2]) if bias is None else bias
    return windows.to(wide), kernel.to(wide), bias.to(wide).expand(kernel.shape[:-1])


def _normalised(
    windows: Tensor, weight: Tensor, norm: GroupNorm, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Windows without their mean, zeros where not valid, and the kernel that normalises, in fp64.

    A channel of kernel w has the variance w' C w, where C is the windows' covariance.  A bias
    before the norm cancels.
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
    return centred, kernel * (norm.weight.double() * (variance + norm.eps).rsqrt())[..., None]
