"""An exponential moving average of the weights, often a better model than the last one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common.training.precision import Weights


class Ema:
    """average <- decay x average + (1 - decay) x weights after every update, in fp32.

    The averaged tensors are the parameters themselves: of the weight-normalised positional
    convolution direction and gain, whose product is what the average model uses.
    """

    def __init__(self, weights: Weights, decay: float):
        self.weights, self.decay = weights, decay
        self._average = {name: p.detach().clone() for name, p in weights.named().items()}

    @torch.no_grad()
    def update(self) -> None:
        current = [p.detach() for p in self.weights.named().values()]
        torch._foreach_lerp_(list(self._average.values()), current, 1 - self.decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The model computes with the average inside."""
        parameters = dict(self.weights.model.named_parameters())
        own = {name: p.detach().clone() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            parameter.copy_(self._average[name])
        try:
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.copy_(own[name])

    def state_dict(self) -> dict[str, Tensor]:
        """A model's state with the average for its parameters."""
        return {**self.weights.state_dict(), **self._average}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, average in self._average.items():
            average.copy_(state[name])
