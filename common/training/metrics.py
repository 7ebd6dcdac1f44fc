"""Sums over micro-batches and processes, from which reported means are taken."""

from typing import Any

import torch
from torch import Tensor

from common.runtime import distributed

KEPT = 64
"""Values of a name that wait to be added up together: a small operation each, and a launch on a
GPU, would cost more than they do."""


class Sums:
    """Named sums; device tensors are added without waiting for the device."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor | float]] = {}

    def add(self, values: dict[str, Tensor | float]) -> None:
        """Count each value, a number or tensor of always the same shape, under its name."""
        for name, value in values.items():
            self._append(name, [value.detach() if isinstance(value, Tensor) else value])

    def merge(self, other: "Sums") -> None:
        for name, values in other._values.items():
            self._append(name, values)

    def _append(self, name: str, new: list[Tensor | float]) -> None:
        values = self._values.setdefault(name, [])
        values += new
        if len(values) >= KEPT:
            values[:] = [add_up(values)]

    def total(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The sums over all processes: numbers, or float64 tensors for those of several elements.

        Every process calls this together, with the same names and shapes.
        """
        names = sorted(self._values)
        if not names:
            return {}
        values = [torch.as_tensor(add_up(self._values[n]), dtype=torch.float64) for n in names]
        flat = torch.cat([value.to(device).reshape(-1) for value in values])
        pieces = distributed.sum_over_ranks(flat).cpu().split([value.numel() for value in values])
        return {
            name: piece.view(value.shape) if value.dim() else piece.item()
            for name, value, piece in zip(names, values, pieces)
        }


def add_up(values: list[Tensor | float]) -> Tensor | float:
    """The sum, in float64."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    number = sum(value for value in values if not isinstance(value, Tensor))
    return number + torch.stack(tensors).double().sum(dim=0) if tensors else number
