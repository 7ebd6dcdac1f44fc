"""The device that a model runs on, and what it supports."""

import os
from typing import Literal

import torch
import torch.nn.functional as F

from wav2vec2.cli.errors import UserError
from wav2vec2.kernels import int8
from wav2vec2.numerics import TYPES, Precision

InferencePrecision = Literal["fp32", "bf16", "fp16", "int8"]
"""What a model can run in; int8 only infers, on CPUs."""


def pick_device(cpu: bool) -> torch.device:
    """This process' GPU, or the CPU if `cpu`.  UserError if there are fewer GPUs than processes."""
    if cpu:
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    if gpus == 0:
        raise UserError("no GPU found; to use the CPU, add --cpu (CPU=true in a recipe)")
    if processes > gpus:
        raise UserError(
            f"NUM_GPUS: {processes} processes, but this machine has {gpus} GPUs; "
            "lower NUM_GPUS or set CPU=true"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def inference_device(cpu: bool) -> torch.device:
    """This process' GPU if there is one and not `cpu`, else the CPU."""
    return pick_device(cpu or not torch.cuda.is_available())


def usable_device(device: str | torch.device | None) -> torch.device:
    """What torch calls `device`; None: a GPU if there is one, else the CPU, as for the commands.

    UserError if this machine cannot compute there.
    """
    if device is None:
        return inference_device(cpu=False)
    try:
        number = torch.zeros(1, device=device)
        number.tolist()  # torch's device "meta", which holds no numbers, refuses this
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"device {device!r}: {reason}; give 'cpu', or a GPU such as 'cuda'"
        ) from None
    return number.device


def check_int8(device: torch.device) -> None:
    """UserError if `device` cannot run the model in 8 bits."""
    if device.type != "cpu":
        raise UserError("--precision int8: runs on the CPU; add --cpu, or choose bf16 or fp16")
    if reason := int8.why_unsupported():
        raise UserError(f"--precision int8: {reason}; choose bf16 or fp32")


def check_supported(precision: Precision, device: torch.device) -> None:
    """UserError if `device` cannot run the model's operators, forward and backward, in
    `precision`."""
    if precision == "fp32":
        return
    dtype = TYPES[precision]
    try:
        if device.type == "cuda" and dtype == torch.bfloat16:
            assert torch.cuda.is_bf16_supported(including_emulation=False), "needs Ampere or newer"
        x = torch.randn(2, 4, 40, device=device, dtype=dtype, requires_grad=True)
        conv = torch.ones(4, 4, 3, device=device, dtype=dtype, requires_grad=True)
        y = F.gelu(F.group_norm(F.conv1d(x, conv, stride=2), 4)).transpose(1, 2)
        y = F.linear(F.layer_norm(y, (4,)), conv[..., 0])
        y = F.dropout(F.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None]), 0.1)
        y.float().square().mean().backward()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"--precision {precision}: {device} does not support it ({reason}); choose another"
        ) from None
