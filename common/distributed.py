"""The process group, reductions, and rank-zero helpers.  One process needs no set-up."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from common.errors import PeerLost, UserError

Result = TypeVar("Result")


def world_size() -> int:
    """Processes of the run, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process' number among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes the logs and checkpoints."""
    return rank() == 0


def notice(text: str) -> None:
    """Tell the user something, once for all processes, on standard error."""
    if is_main():
        print(text, file=sys.stderr, flush=True)


def pick_device(cpu: bool) -> torch.device:
    """This process' own GPU, or the CPU when that is asked for."""
    if cpu:
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    if gpus == 0:
        raise UserError("no GPU found; pass --cpu (CPU=true in a recipe) to use the CPU")
    if processes > gpus:
        raise UserError(
            f"NUM_GPUS: {processes} processes, but this machine has {gpus} GPUs; "
            "lower NUM_GPUS or set CPU=true"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextmanager
def process_group(device: torch.device, timeout_minutes: float = 30) -> Iterator[None]:
    """Join the group torchrun describes, if it does; leave it at the end."""
    if world_size() == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _with_peers() -> Iterator[None]:
    """Around a collective: it fails when another process is gone or does not come."""
    try:
        yield
    except RuntimeError as error:  # gloo has no type of its own
        raise PeerLost(
            f"process {rank()} waited for the others in vain ({str(error).splitlines()[0][:150]}); "
            "started again, the run goes on from its last checkpoint"
        ) from error


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over all processes, in place."""
    if dist.is_initialized():
        with _with_peers():
            dist.all_reduce(tensor)
    return tensor


def gather(value: object) -> list:
    """Each process' `value` (plain types), in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * world_size()
    with _with_peers():
        dist.all_gather_object(values, value)
    return values


def raise_together(error: UserError | None) -> None:
    """If any process met an error, raise the first one's in all of them.

    Every process calls this at the same place, so that none waits for another that has given up.
    """
    messages = [message for message in gather(str(error) if error else None) if message]
    if messages:
        raise UserError(messages[0]) from error


def together(function: Callable[[], Result]) -> Result:
    """`function()`; a UserError that any process meets in it is raised in all of them.

    `function` must not communicate after the point at which it may fail in one process alone.
    """
    result, error = None, None
    try:
        result = function()
    except UserError as failure:
        error = failure
    raise_together(error)
    return result


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
            sum_over_ranks(flat)
            pieces = flat.split([g.numel() for g in bucket])
            torch._foreach_copy_(bucket, [p.view_as(g) for p, g in zip(pieces, bucket)])
            bucket, size = [], 0
