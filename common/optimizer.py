"""The optimizer of the recipes."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from common.errors import UserError


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimizer: Adam with decoupled weight decay (AdamW)"""

    adam_betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the two moments."""
    adam_eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on all parameters alike, biases and norms included."""
    clip_norm: float = 25.0
    """Largest norm of the gradient, after its division by the count of targets; 0: no clipping."""
    ema: float = 0.0
    """Decay an update of the weights' moving average, such as 0.9999; 0: none is kept."""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise UserError(f"--adam_betas {self.adam_betas}: both must be within [0, 1)")
        if not 0 <= self.ema < 1:
            raise UserError(f"--ema {self.ema}: must be within [0, 1)")
        if self.clip_norm < 0 or self.weight_decay < 0 or self.adam_eps < 0:
            raise UserError("--clip_norm, --weight_decay and --adam_eps must not be negative")

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.AdamW:
        """AdamW over `parameters`, fused; the learning rate is set anew at every update."""
        return torch.optim.AdamW(
            parameters,
            lr=0.0,
            betas=self.adam_betas,
            eps=self.adam_eps,
            weight_decay=self.weight_decay,
            fused=True,
        )
