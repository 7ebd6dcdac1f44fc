"""Half precision of the O2 kind: 16-bit weights and activations, fp32 master weights.

Gradients are collected, summed, clipped and applied in fp32; checkpoints hold the fp32 weights, so
that a run can resume in another precision.  (Micikevicius et al., arXiv 1710.03740.)
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.runtime import sharding
from wav2vec2.cli.errors import HealthError
from wav2vec2.numerics import TYPES, Precision, kept_fp32


@dataclass(frozen=True)
class PrecisionOptions:
    """Precision"""

    precision: Precision = "fp32"
    """Type of weights and activations; the optimizer always works in fp32."""
    tf32: bool = True
    """Let fp32 matrix products on GPUs use TF32, except where fp32 matters."""


def set_matmul_precision(tf32: bool) -> None:
    """Set how GPUs compute matrix products: fp32 ones with or without TF32, 16-bit ones with fp32
    sums, where torch's default sums split products in 16 bits."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    matmul.allow_bf16_reduced_precision_reduction = False
    matmul.allow_fp16_reduced_precision_reduction = False


class Weights:
    """A model's weights as the optimizer sees them.

    In fp32 these are the model's own parameters.  In half precision the model's parameters become
    16-bit, and each has fp32 master weights; those of modules with `keeps_fp32` stay as they are.
    Parameters outside `trained` are neither optimised nor stored, and have no master weights.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision = "fp32",
        trained: Collection[str] | None = None,
    ):
        """`trained`: names of the parameters that learn; None: all."""
        self.model, self._partial = model, trained is not None
        self.sharded = any(map(sharding.is_sharded, model.parameters()))
        if self.sharded:  # their shares are fp32 already
            precision = "fp32"
        kept = kept_fp32(model)
        self._masters: dict[str, nn.Parameter] = {}
        self._halves: list[tuple[nn.Parameter, nn.Parameter]] = []  # (model's, master)
        self._own: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if trained is not None and name not in trained:
                if id(parameter) not in kept:
                    parameter.data = parameter.data.to(TYPES[precision])
                continue
            if precision == "fp32" or id(parameter) in kept:
                self._masters[name] = parameter
                self._own.append(parameter)
                continue
            master = nn.Parameter(parameter.detach().clone())
            parameter.data = parameter.data.to(TYPES[precision])
            self._masters[name] = master
            self._halves.append((parameter, master))

    def parameters(self) -> Iterator[nn.Parameter]:
        """The fp32 weights, for the optimizer."""
        return iter(self._masters.values())

    def named(self) -> dict[str, nn.Parameter]:
        """The fp32 weights by the names of the model's parameters."""
        return self._masters

    def zero_grad(self) -> None:
        for parameter in self._own:
            parameter.grad = None
        for half, master in self._halves:
            half.grad = master.grad = None

    def collect_gradients(self) -> None:
        """After a backward pass: add the 16-bit gradients to those of the master weights."""
        fresh = []
        for parameter, master in self._halves:
            if parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = torch.empty_like(master)
                fresh.append((master.grad, parameter.grad))
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None
        if fresh:
            torch._foreach_copy_(*zip(*fresh))

    def trainable(self) -> list[nn.Parameter]:
        """The fp32 weights that take part in an update, each with a gradient, zero if need be."""
        chosen = [p for p in self._own if p.requires_grad]
        chosen += [master for p, master in self._halves if p.requires_grad]
        for parameter in chosen:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return chosen

    @torch.no_grad()
    def write_back(self) -> None:
        """After an update: round the master weights to the model's 16-bit weights."""
        if self._halves:
            halves, masters = zip(*self._halves)
            torch._foreach_copy_(halves, masters)

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state, in fp32; of a model that is trained in part, that part."""
        masters = {name: master.detach() for name, master in self._masters.items()}
        return masters if self._partial else {**self.model.state_dict(), **masters}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`; RuntimeError if names or shapes do not fit."""
        if not (self._partial or self.sharded):
            self.model.load_state_dict(state)
        elif state.keys() != self._masters.keys():
            raise RuntimeError("its weights have other names than those that are trained")
        for name, master in self._masters.items():
            master.copy_(sharding.divided_like(state[name], master))
        self.write_back()


class LossScaler:
    """Dynamic loss scaling for fp16, which keeps small gradients within the range of the type.

    Start 128, halved at every overflow, doubled after `window` updates without one.
    """

    def __init__(self, window: int = 2000, floor: float = 1e-4):
        self.scale = 128.0
        self.window, self.floor = window, floor
        self._clean = 0

    def applied(self) -> None:
        """An update was applied."""
        self._clean += 1
        if self._clean == self.window:
            self.scale, self._clean = 2 * self.scale, 0

    def overflowed(self, utterances: list[str]) -> None:
        """An update was skipped; HealthError below the floor."""
        self.scale, self._clean = self.scale / 2, 0
        if self.scale < self.floor:
            shown = ", ".join(utterances[:20])
            raise HealthError(
                f"the loss scale fell below {self.floor:g}: gradients are not finite however small "
                f"the loss is made, the last of utterances {shown}; check this audio, lower "
                "--learning_rate, or train in bf16 or fp32"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "clean": self._clean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self._clean = state["scale"], state["clean"]
