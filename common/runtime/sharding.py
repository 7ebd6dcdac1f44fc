"""Weights, gradients and optimizer state divided over the processes, by torch's FSDP2.

Each process keeps an equal share of each tensor's rows.  A transformer layer's weights are gathered
when it runs, and its gradients are summed and divided again.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.runtime import distributed
from wav2vec2.encoder import TransformerLayer
from wav2vec2.numerics import TYPES, Precision


def shard(model: nn.Module, precision: Precision) -> None:
    """Divide `model`, on its device, over all processes; each layer is gathered alone.

    The shares are fp32.  In half precision what is gathered is 16-bit, except modules with
    `keeps_fp32`, and gradients are summed in fp32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    full = half = MixedPrecisionPolicy(cast_forward_inputs=False)
    if precision != "fp32":
        half = MixedPrecisionPolicy(TYPES[precision], torch.float32, cast_forward_inputs=False)
        for module in [m for m in model.modules() if getattr(m, "keeps_fp32", False)]:
            fully_shard(module, mesh=mesh, mp_policy=full)
    for module in [m for m in model.modules() if isinstance(m, TransformerLayer)]:
        fully_shard(module, mesh=mesh, mp_policy=half)
    fully_shard(model, mesh=mesh, mp_policy=half)
    for module in _sharded_modules(model):
        # Gradients are sums here; gloo knows no mean.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    with gathered(model):  # gathered weights keep from now on whether they get gradients
        pass
    # Nothing here changes the model's output in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def _sharded_modules(model: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, each process has all weights and may compute without the others.

    All processes enter and leave together.  Nothing happens to a model that is not divided.
    """
    modules = _sharded_modules(model)
    for module in modules:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(module is not model, recurse=False)
            module.reshard()


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is divided over the processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def share(tensor: Tensor) -> Tensor:
    """This process' share of a divided tensor, in the same memory; any other as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def divided_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, the same in each process, divided as `pattern` is; no communication."""
    if not is_sharded(pattern) or is_sharded(tensor) or tensor.shape != pattern.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    own = tensor.to(pattern.device, pattern.dtype)
    return distribute_tensor(own, pattern.device_mesh, pattern.placements, src_data_rank=None)


def whole(content: Any) -> Any:
    """`content` with its divided tensors whole, on the CPU of the main process alone.

    All processes call it together; in the others these tensors are None.
    """
    if isinstance(content, Tensor):
        if not is_sharded(content):
            return content
        full = content.full_tensor()
        return full.cpu() if distributed.is_main() else None
    if isinstance(content, dict):
        return {key: whole(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(whole(value) for value in content)
    return content
