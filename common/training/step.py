"""One update: micro-batches, reduce, normalise, clip, check, apply."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from common.runtime import distributed
from common.runtime.signals import uninterrupted
from common.training.metrics import Sums
from common.training.precision import Weights
from wav2vec2.cli.errors import UserError, one_line, out_of_memory


@dataclass
class MicroBatchResult:
    """What a forward pass hands to the step."""

    loss: Tensor
    """Scalar, summed (not averaged) over the micro-batch' targets."""
    targets: int
    """What the gradient is divided by, summed over the whole update: masked frames in
    pre-training, utterances in fine-tuning."""
    sums: dict[str, Tensor | float] = field(default_factory=dict)
    """What is to be reported, as sums."""


@dataclass
class UpdateReport:
    """What became of an update."""

    grad_norm: float
    """Norm of the gradient after division by the count of targets, before clipping."""
    applied: bool
    """False if the gradient was not finite: weights and moments are then untouched."""
    stop: bool
    """Whether any process was asked to stop."""


def run_update(
    micro_batches: Iterable[Any],
    forward: Callable[[Any], MicroBatchResult],
    weights: Weights,
    optimizer: torch.optim.Optimizer,
    *,
    learning_rate: float,
    clip_norm: float,
    sums: Sums,
    device: torch.device,
    loss_scale: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
) -> UpdateReport:
    """Train on one update's micro-batches; every process calls this together.

    Gradients are summed over micro-batches and processes and divided once by the summed count of
    targets.  A parameter that took no part (a layer skipped by LayerDrop) has a zero gradient on
    every process alike; one that does not require a gradient is left out of the update.

    `weights`: what `optimizer` updates.  `loss_scale` multiplies the loss before and divides the
    gradient after the backward pass (fp16).

    A UserError met by one process, while it loads or computes, is raised in all of them, and the
    update has then not taken place anywhere.  `stop()`: whether this process was asked to stop.
    """
    weights.zero_grad()
    targets, error, result = 0, None, None
    try:
        for batch in micro_batches:
            result = forward(batch)
            (result.loss * loss_scale).backward()
            weights.collect_gradients()
            targets += result.targets
            sums.add(result.sums)
            result = None  # and with it the graph, before the next one is built
    except UserError as failure:
        error = failure
    except RuntimeError as failure:
        if not out_of_memory(failure):
            raise
        error = UserError(
            f"{device}: out of memory ({one_line(failure).split('. ')[0]}); lower "
            "--num_concat_batches and raise --update_freq by as much (the same recipe), add "
            "--activation_checkpointing, or lower --max_tokens"
        )
    if error is not None:
        # Room for what all processes do together before they end; not while the failure was being
        # handled, whose traceback held the graph.
        result = None
        weights.zero_grad()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    parameters = weights.trainable()
    gradients = [p.grad for p in parameters]
    distributed.sum_gradients(gradients)
    # Staged by the driver, so that nothing waits for the device.
    status = torch.tensor([targets, error is not None, stop()], dtype=torch.float64)
    status = status.to(device, non_blocking=True)
    count, failed, stopping = distributed.sum_over_ranks(status).unbind()

    # Division and clipping in one pass over the gradients.
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True).double() / (count * loss_scale)
    factor = 1 / (count * loss_scale)
    if clip_norm > 0:
        factor = factor * (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
    # The one place where the step waits for the device:
    grad_norm, any_failed, any_stopping = torch.stack([norm, failed, stopping]).tolist()
    if any_failed:
        distributed.raise_on_all_ranks(error)
    applied = grad_norm < float("inf")  # false for NaN too
    if applied:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        with uninterrupted():  # half an update must never be saved
            optimizer.step()
            weights.write_back()
    return UpdateReport(grad_norm=grad_norm, applied=applied, stop=bool(any_stopping))
