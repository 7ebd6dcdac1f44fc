"""The optimizers: Adam with decoupled weight decay, and LAMB for very large batches."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimizer"""

    optimizer: Literal["adam", "adam8bit", "fused_adam", "fused_lamb", "lamb"] = "adam"
    """Adam with decoupled weight decay (AdamW), or LAMB; the fused ones need apex.  adam8bit keeps
    its moments in 8 bits, needs bitsandbytes and a GPU."""
    adam_betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the two moments."""
    adam_eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay of all parameters, biases and norms included."""
    clip_norm: float = 25.0
    """Largest norm of the gradient, after its division by the count of targets; 0: no clipping."""
    ema: float = 0.0
    """Decay per update of a moving average of the weights, such as 0.9999; 0: no average."""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise UserError(f"--adam_betas {self.adam_betas}: both must be within [0, 1)")
        if not 0 <= self.ema < 1:
            raise UserError(f"--ema {self.ema}: must be within [0, 1)")
        require_at_least(self, clip_norm=0, weight_decay=0, adam_eps=0)

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over `parameters`; the learning rate is set at every update.

        UserError for an optimizer of another package where that cannot be imported.
        """
        common: dict[str, Any] = {
            "lr": 0.0,
            "betas": self.adam_betas,
            "eps": self.adam_eps,
            "weight_decay": self.weight_decay,
        }
        if self.optimizer == "adam":
            return torch.optim.AdamW(parameters, **common, fused=True)
        if self.optimizer == "adam8bit":
            return build_adam8bit(parameters, common)
        if self.optimizer == "lamb":
            return Lamb(parameters, **common)
        try:
            from apex.optimizers import FusedAdam, FusedLAMB  # ships in the NGC image
        except ImportError:
            plain = {"fused_adam": "adam", "fused_lamb": "lamb"}[self.optimizer]
            raise UserError(
                f"--optimizer {self.optimizer}: apex cannot be imported; use the NGC PyTorch "
                f"image, or --optimizer {plain}, which needs nothing else"
            ) from None
        if self.optimizer == "fused_adam":
            return FusedAdam(parameters, **common, adam_w_mode=True)
        # The gradient is clipped before: no second clipping inside.
        return FusedLAMB(parameters, **common, max_grad_norm=float("inf"))


def build_adam8bit(
    parameters: Iterable[torch.nn.Parameter], settings: dict[str, Any]
) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits, by blocks (Dettmers et al., arXiv 2110.02861); tensors of fewer
    than 4096 elements keep fp32."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "--optimizer adam8bit: bitsandbytes cannot be imported; install it: "
            f"{sys.executable} -m pip install bitsandbytes, or choose --optimizer adam (OPTIMIZER)"
        ) from None
    chosen = list(parameters)
    if any(parameter.device.type == "cpu" for parameter in chosen):
        raise UserError("--optimizer adam8bit: needs a GPU; choose --optimizer adam (OPTIMIZER)")
    return AdamW8bit(chosen, **settings)


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al., arXiv 1904.00962): each tensor's Adam step, scaled to the tensor's norm.

    step = m' / (sqrt(v') + eps) + weight_decay w, with bias-corrected moments m', v'; then
    w <- w - lr (|w| / |step|) step.  The ratio is 1 where a norm is 0 and, as in apex' FusedLAMB,
    where there is no weight decay.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **defaults: Any):
        """`defaults`: lr, betas, eps and weight_decay, as of torch's Adam; all are required."""
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One update; a parameter without gradient keeps its value."""
        assert closure is None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    moments = {n: torch.zeros_like(parameter) for n in ("exp_avg", "exp_avg_sq")}
                    state.update(step=0, **moments)
                state["step"] += 1
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.lerp_(parameter.grad, 1 - beta1)
                square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                root = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
                step = (mean / (1 - beta1 ** state["step"])).div_(root)
                if group["weight_decay"]:
                    step.add_(parameter, alpha=group["weight_decay"])
                    ratio = parameter.norm() / step.norm()
                    # Without leaving the device: a norm of 0 makes the ratio 0, infinite or NaN.
                    usable = torch.isfinite(ratio) & (ratio > 0)
                    step.mul_(torch.where(usable, ratio, 1.0))
                parameter.sub_(step, alpha=group["lr"])
