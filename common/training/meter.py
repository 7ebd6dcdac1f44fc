"""Sums over micro-batches and processes, and the metrics of an interval of updates."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from common.runtime import distributed
from wav2vec2.cli.telemetry import peak_memory_mib

Item = TypeVar("Item")

COUNTS = ("targets", "tokens", "frames", "audio_seconds")
"""What every task counts in a micro-batch: fields of MicroBatchResult and of Totals."""

MAX_PENDING = 64
"""Values of a name that are kept before they are added up: adding each at once would launch a
small kernel per value."""


class Sums:
    """Named sums; device tensors are added without waiting for the device."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor | float]] = {}

    def add(self, values: dict[str, Tensor | float]) -> None:
        """Add each value, a number or a tensor of always the same shape, under its name."""
        for name, value in values.items():
            self._append(name, [value.detach() if isinstance(value, Tensor) else value])

    def merge(self, other: "Sums") -> None:
        for name, values in other._values.items():
            self._append(name, values)

    def _append(self, name: str, new: list[Tensor | float]) -> None:
        values = self._values.setdefault(name, [])
        values += new
        if len(values) >= MAX_PENDING:
            values[:] = [_add_up(values)]

    def total(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The sums over all processes: numbers, or float64 tensors for those of several elements.

        Every process calls this together, with the same names and shapes.
        """
        names = sorted(self._values)
        if not names:
            return {}
        values = [torch.as_tensor(_add_up(self._values[n]), dtype=torch.float64) for n in names]
        flat = torch.cat([value.to(device).reshape(-1) for value in values])
        pieces = distributed.sum_over_ranks(flat).cpu().split([value.numel() for value in values])
        return {
            name: piece.view(value.shape) if value.dim() else piece.item()
            for name, value, piece in zip(names, values, pieces)
        }


def _add_up(values: list[Tensor | float]) -> Tensor | float:
    """The sum, in float64."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    number = sum(value for value in values if not isinstance(value, Tensor))
    return number + torch.stack(tensors).double().sum(dim=0) if tensors else number


@dataclass
class Totals:
    """The sums of some updates over all processes."""

    targets: float
    """What gradients were divided by."""
    tokens: float
    """What throughput is reported in."""
    frames: float
    """Valid frames."""
    audio_seconds: float
    sums: dict[str, Any]
    """The task's own measures by name: numbers, or float64 tensors."""

    @classmethod
    def over_ranks(cls, sums: Sums, device: torch.device) -> "Totals":
        """The totals of what an UpdateStep counted; every process calls this together."""
        own = sums.total(device)
        return cls(**{name: own.pop(name) for name in COUNTS}, sums=own)


class Meter:
    """Counts and times the updates between two log lines."""

    def __init__(self, device: torch.device):
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Begin a new interval now."""
        self.sums = Sums()
        self.start = time.perf_counter()
        self.data_wait = 0.0
        self.updates = 0
        self.grad_norms = 0.0  # sum of the finite ones
        self.finite = 0

    def wait_for(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time until each one is there counts as waiting for data."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            item = next(iterator, None)
            self.data_wait += time.perf_counter() - start
            if item is None:
                return
            yield item

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.start += time.perf_counter() - start

    def count(self, sums: Sums, grad_norm: float) -> None:
        """An update took place."""
        self.sums.merge(sums)
        self.updates += 1
        if math.isfinite(grad_norm):
            self.grad_norms += grad_norm
            self.finite += 1

    def merge(self, other: "Meter") -> None:
        """Add a shorter interval."""
        self.sums.merge(other.sums)
        self.data_wait += other.data_wait
        self.updates += other.updates
        self.grad_norms += other.grad_norms
        self.finite += other.finite

    def metrics(self, summarise: Callable[[Totals], dict[str, float]]) -> dict[str, float]:
        """The task's metrics by `summarise`, with throughput, memory and data wait (percent)."""
        totals = Totals.over_ranks(self.sums, self.device)
        took = time.perf_counter() - self.start
        return {
            **summarise(totals),
            "ntokens": totals.tokens,
            "took": took,
            "ntokens/s": totals.tokens / took,
            "frames/s": totals.frames / took,
            "audio_s/s": totals.audio_seconds / took,
            "updates/s": self.updates / took,
            "grad_norm": self.grad_norms / self.finite if self.finite else math.nan,
            "memory": peak_memory_mib(self.device),
            "data_wait": 100 * self.data_wait / took,
        }
