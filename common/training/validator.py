"""Validation: metrics over the validation set, of the weights and of their average."""

import math

import torch

from common.runtime import distributed
from common.training.meter import Sums
from common.training.state import TrainingState
from common.training.task import Task
from wav2vec2.cli.telemetry import Telemetry


def validate(
    task: Task, state: TrainingState, telemetry: Telemetry, device: torch.device, epoch: int
) -> tuple[dict[str, float], bool]:
    """Validate and log; returns the metrics, and whether the result is the best so far.

    Where there is an average of the weights, its result decides: it is what will be used.
    """
    state.validated = state.position
    metrics = _measure(task, device)
    named = {f"val_{name}": value for name, value in metrics.items()}
    telemetry.scalars("valid", state.update, metrics)
    if state.ema:
        with state.ema.in_place():
            metrics = _measure(task, device)
        named |= {f"val_ema_{name}": value for name, value in metrics.items()}
        telemetry.scalars("valid_ema", state.update, metrics)
    telemetry.log([epoch], named)
    result = metrics[task.selection]
    is_best = state.update > 0 and math.isfinite(result)
    is_best = is_best and (state.best is None or result < state.best)
    if is_best:
        state.best = result
    return named, is_best


def _measure(task: Task, device: torch.device) -> dict[str, float]:
    sums = Sums()
    task.model.eval()
    with torch.no_grad():
        distributed.run_on_all_ranks(lambda: task.validate(sums))
    task.model.train()
    return task.summarise_validation(sums.total(device))
