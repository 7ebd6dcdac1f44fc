"""The process group, reductions, and rank-zero helpers.  One process needs no set-up."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from common.errors import UserError


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes the logs and checkpoints."""
    return rank() == 0


def notice(text: str) -> None:
    """Tell the user something, once for all processes, on standard error."""
    if is_main():
        print(text, file=sys.stderr, flush=True)


def pick_device(cpu: bool) -> torch.device:
    """This process' device: its own GPU, or the CPU when asked for or when there is no GPU."""
    if cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"NUM_GPUS: process {local_rank} has no GPU, this machine has "
            f"{torch.cuda.device_count()}; lower NUM_GPUS or set CPU=true"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextmanager
def process_group(device: torch.device, timeout_minutes: float = 30) -> Iterator[None]:
    """Join the group torchrun describes, if it does; leave it at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(gradients: list[torch.Tensor], bucket_elements: int = 16_000_000) -> None:
    """Sum each gradient over all processes, in place, in buckets of `bucket_elements`."""
    if not dist.is_initialized():
        return
    bucket: list[torch.Tensor] = []
    size = 0
    for position, gradient in enumerate(gradients):
        bucket.append(gradient)
        size += gradient.numel()
        if size >= bucket_elements or position == len(gradients) - 1:
            flat = torch.cat([g.reshape(-1) for g in bucket])
            dist.all_reduce(flat)
            pieces = flat.split([g.numel() for g in bucket])
            torch._foreach_copy_(bucket, [p.view_as(g) for p, g in zip(pieces, bucket)])
            bucket, size = [], 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
