"""Sums over micro-batches and processes, from which reported means are taken."""

from typing import Any

import torch
from torch import Tensor

from common import distributed


class Sums:
    """Named running sums; device tensors are added without waiting for the device."""

    def __init__(self) -> None:
        self._values: dict[str, Tensor | float] = {}

    def add(self, values: dict[str, Tensor | float]) -> None:
        for name, value in values.items():
            if isinstance(value, Tensor):
                value = value.detach().double()
            self._values[name] = self._values.get(name, 0.0) + value

    def merge(self, other: "Sums") -> None:
        self.add(other._values)

    def total(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The sums over all processes: numbers, or float64 tensors for those of several elements.

        Every process calls this together, with the same names and shapes.
        """
        names = sorted(self._values)
        if not names:
            return {}
        values = [torch.as_tensor(self._values[name], dtype=torch.float64) for name in names]
        flat = torch.cat([value.to(device).reshape(-1) for value in values])
        pieces = distributed.sum_over_ranks(flat).cpu().split([value.numel() for value in values])
        return {
            name: piece.view(value.shape) if value.dim() else piece.item()
            for name, value, piece in zip(names, values, pieces)
        }
