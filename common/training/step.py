"""One update: forward, backward, reduce, normalise, clip, check finite, apply."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from common.runtime import distributed
from common.runtime.sharding import share
from common.runtime.signals import uninterrupted
from common.training.meter import COUNTS, Sums
from common.training.precision import LossScaler, Weights
from common.training.task import MicroBatchResult
from wav2vec2.cli.errors import UserError, one_line, out_of_memory


@dataclass
class UpdateReport:
    """What became of an update."""

    grad_norm: float
    """Norm of the gradient after division by the count of targets, before clipping."""
    applied: bool
    """False if the gradient was not finite: weights and moments are then untouched."""
    stop: bool
    """Whether any process was asked to stop."""
    sums: Sums
    """Counts and measures of this process' micro-batches."""


@dataclass
class UpdateStep:
    """Applies updates to `weights` by `optimizer`.

    Gradients are summed over micro-batches and processes and divided once by the summed count of
    targets.  A parameter that took no part (a layer skipped by LayerDrop) has a zero gradient in
    every process; one that does not require a gradient is not updated.
    """

    weights: Weights
    optimizer: torch.optim.Optimizer
    device: torch.device
    _: KW_ONLY
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0: no limit."""
    scaler: LossScaler | None = None
    """Scales the loss before and the gradient after the backward pass (fp16)."""
    memory_hint: str = "make batches smaller"
    """What to change when memory runs out."""

    def run(
        self,
        micro_batches: Iterable[Any],
        forward: Callable[[Any], MicroBatchResult],
        learning_rate: float,
        stop: Callable[[], bool] = lambda: False,
    ) -> UpdateReport:
        """Train on one update's micro-batches; every process calls this together.

        A UserError that one process meets while it loads or computes is raised in all of them, and
        no process has then applied the update.  `stop()`: whether this process was asked to stop.
        """
        self.weights.zero_grad()
        sums = Sums()
        targets, error = self._accumulate(micro_batches, forward, sums)
        gradients = [share(parameter.grad) for parameter in self.weights.trainable()]
        if not self.weights.sharded:  # otherwise each backward pass has summed them
            distributed.sum_gradients(gradients)
        # Staged by the driver, so that nothing waits for the device.
        status = torch.tensor([targets, error is not None, stop()], dtype=torch.float64)
        status = distributed.sum_over_ranks(status.to(self.device, non_blocking=True))
        count, failed, stopping = status.unbind()
        norm = self._normalise(gradients, count)
        # The one place where the step waits for the device:
        grad_norm, any_failed, any_stopping = torch.stack([norm, failed, stopping]).tolist()
        if any_failed:
            distributed.raise_on_all_ranks(error)
        applied = grad_norm < float("inf")  # false for NaN too
        if applied:
            self._apply(learning_rate)
        return UpdateReport(grad_norm, applied, bool(any_stopping), sums)

    @property
    def _loss_scale(self) -> float:
        return self.scaler.scale if self.scaler else 1.0

    def _accumulate(
        self,
        micro_batches: Iterable[Any],
        forward: Callable[[Any], MicroBatchResult],
        sums: Sums,
    ) -> tuple[int, UserError | None]:
        """Sum the gradients of the micro-batches; returns their targets and what went wrong."""
        targets, error, result = 0, None, None
        try:
            for batch in self._together(micro_batches):
                result = forward(batch)
                (result.loss * self._loss_scale).backward()
                self.weights.collect_gradients()
                targets += result.targets
                sums.add(result.sums | {name: getattr(result, name) for name in COUNTS})
                result = None  # and with it the graph, before the next one is built
        except UserError as failure:
            error = failure
        except RuntimeError as failure:
            if not out_of_memory(failure):
                raise
            error = UserError(
                f"{self.device}: out of memory ({one_line(failure).split('. ')[0]}); "
                f"{self.memory_hint}"
            )
        if error is not None:
            # Frees memory for what all processes do together before they end.  Not inside the
            # handlers above: there the traceback still holds the graph.
            result = None
            self.weights.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return targets, error

    def _together(self, micro_batches: Iterable[Any]) -> Iterator[Any]:
        """The micro-batches; of a sharded model, whose passes communicate, each one only when all
        processes have theirs."""
        if not self.weights.sharded:
            yield from micro_batches
            return
        own = iter(micro_batches)
        while (batch := distributed.run_on_all_ranks(lambda: next(own, None))) is not None:
            yield batch

    def _normalise(self, gradients: list[Tensor], count: Tensor) -> Tensor:
        """Divide by the count of targets and clip, in one pass; returns the norm before clipping,
        a float64 scalar on the device."""
        scale = count * self._loss_scale
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True).double()
        if self.weights.sharded:
            norm = distributed.sum_over_ranks(norm.square()).sqrt()
        norm = norm / scale
        factor = 1 / scale
        if self.clip_norm > 0:
            factor = factor * (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
        return norm

    def _apply(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with uninterrupted():  # half an update must never be saved
            self.optimizer.step()
            self.weights.write_back()
