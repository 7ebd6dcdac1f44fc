"""Sums over micro-batches and processes, from which reported means are taken."""

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

    def total(self, device: torch.device | str = "cpu") -> dict[str, float]:
        """The sums over all processes, as numbers.  Every process must call this together."""
        names = sorted(self._values)
        if not names:
            return {}
        values = torch.stack(
            [torch.as_tensor(self._values[name], dtype=torch.float64).to(device) for name in names]
        )
        return dict(zip(names, distributed.sum_over_ranks(values).tolist()))
