"""An exponential moving average of the weights, often a better model than the last one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from common.runtime.sharding import divided_like
from common.training.precision import Weights


class Ema:
    """average <- decay x average + (1 - decay) x weights after every update, in fp32.

    The averaged tensors are the parameters themselves: of the weight-normalised positional
    convolution direction and gain, whose product the average model uses.  torch's AveragedModel
    would copy the model in its own precision; the average here is of the fp32 master weights.
    """

    def __init__(self, weights: Weights, decay: float):
        self.weights, self._average_into = weights, get_ema_multi_avg_fn(decay)
        self._average = {name: p.detach().clone() for name, p in weights.named().items()}

    def update(self) -> None:
        current = [p.detach() for p in self.weights.named().values()]
        self._average_into(list(self._average.values()), current, None)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Inside, the model computes with the average."""
        parameters = dict(self.weights.model.named_parameters())
        parameters = {name: parameters[name] for name in self._average}
        own = {name: p.detach().clone() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            parameter.copy_(self._average[name])
        try:
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.copy_(own[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state with the average as its parameters."""
        return {**self.weights.state_dict(), **self._average}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, average in self._average.items():
            average.copy_(divided_like(state[name], average))
