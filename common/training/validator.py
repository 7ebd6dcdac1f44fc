"""Validation: metrics over the validation set, of the weights and of their average."""

import math

import torch

from common.runtime import distributed
from common.training.meter import Sums
from common.training.state import TrainingState
from common.training.task import Task
from wav2vec2.cli.telemetry import Telemetry


class Validator:
    """Validates a task's model and knows whether it is the best so far."""

    def __init__(
        self, task: Task, state: TrainingState, telemetry: Telemetry, device: torch.device
    ):
        self.task, self.state, self.telemetry, self.device = task, state, telemetry, device

    def run(self, epoch: int) -> tuple[dict[str, float], bool]:
        """Validate and log; returns the metrics, and whether the result is the best so far.

        Where there is an average of the weights, its result decides: it is what will be used.
        """
        state = self.state
        state.validated = state.position
        metrics = self._measure()
        named = {f"val_{name}": value for name, value in metrics.items()}
        self.telemetry.scalars("valid", state.update, metrics)
        if state.ema:
            with state.ema.in_place():
                metrics = self._measure()
            named |= {f"val_ema_{name}": value for name, value in metrics.items()}
            self.telemetry.scalars("valid_ema", state.update, metrics)
        self.telemetry.log([epoch], named)
        result = metrics[self.task.selection]
        is_best = state.update > 0 and math.isfinite(result)
        is_best = is_best and (state.best is None or result < state.best)
        if is_best:
            state.best = result
        return named, is_best

    def _measure(self) -> dict[str, float]:
        sums = Sums()
        self.task.model.eval()
        with torch.no_grad():
            distributed.run_on_all_ranks(lambda: self.task.validate(sums))
        self.task.model.train()
        return self.task.summarise_validation(sums.total(self.device))
