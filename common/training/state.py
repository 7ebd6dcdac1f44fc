"""Everything that a resume needs, in one place."""

from dataclasses import dataclass
from typing import Any

import torch

from common.runtime.sharding import divided_like
from common.training.checkpoint import ResumePoint
from common.training.ema import Ema
from common.training.precision import LossScaler, Weights
from wav2vec2.cli.errors import UserError, out_of_memory


@dataclass
class TrainingState:
    """The state of a run after some update."""

    weights: Weights
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    scaler: LossScaler | None
    recipe: dict[str, Any]
    """What defines the training, in plain types: a resume must agree with it."""
    circumstances: dict[str, Any]
    """What may differ from one job of a run to the next: precision, threads, sub-batches."""
    update: int = 0
    """Updates applied."""
    position: int = 0
    """Updates' worth of batches consumed; an update that was not applied costs one, too."""
    validated: int = 0
    """Position of the last validation."""
    best: float | None = None
    """Result of the best validation so far: the task's `selection`."""
    best_rank: tuple[float, ...] | None = None
    """Rank of that validation; None also after resuming a run that stored only its result."""

    def model_content(self) -> dict[str, Any]:
        """The part of a checkpoint that the model's use needs."""
        return {
            "model": self.weights.state_dict(),
            "ema_model": self.ema.state_dict() if self.ema else None,
            "recipe": self.recipe,
            "circumstances": self.circumstances,
            "update": self.update,
            "position": self.position,
            "validated": self.validated,
            "best": self.best,
            "best_rank": self.best_rank and list(self.best_rank),
        }

    def content(self) -> dict[str, Any]:
        """The whole state, for a checkpoint from which the run can resume."""
        return {
            **self.model_content(),
            "optimizer": self.optimizer.state_dict(),
            "loss_scale": self.scaler.state_dict() if self.scaler else None,
        }

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Take over the optimizer's state, divided as the weights are."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            index: {name: divided_like(value, parameters[index]) for name, value in own.items()}
            if self.weights.sharded
            else own
            for index, own in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": moments})

    def restore(self, point: ResumePoint, *, extended: bool = False) -> list[str]:
        """Take over the state of a checkpoint; returns how the circumstances differ from its.

        `extended`: the recipe may have another number of updates, and a new extension.
        UserError if another recipe wrote it, or if it is no checkpoint to resume from.
        """
        content = point.content
        try:
            old, new = content["recipe"], self.recipe
            if extended:
                old = old | {n: new[n] for n in ("max_update", "extended") if n in new}
            differing = differences(old, new)
            if differing:
                extend = ""
                if new["max_update"] > old["max_update"]:
                    extend = "; to train for more updates, add --extend (EXTEND=true)"
                elif {line.split()[0] for line in differing} <= {"warmup_updates", "hold_updates"}:
                    extend = "; if it was extended, keep --extend (EXTEND=true) to resume it"
                raise UserError(
                    f"{point.path}: OUTPUT_DIR holds a run of another recipe "
                    f"({'; '.join(differing)}); choose another OUTPUT_DIR, or give the old values "
                    f"to resume that run{extend}"
                )
            self.weights.load_state_dict(content["model"])
            self._load_optimizer(content["optimizer"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema_model"])
            if self.scaler is not None and content["loss_scale"] is not None:
                self.scaler.load_state_dict(content["loss_scale"])
            self.update, self.position = content["update"], content["position"]
            self.validated, self.best = content["validated"], content["best"]
            rank = content.get("best_rank")
            self.best_rank = None if rank is None else tuple(map(float, rank))
            return differences(content["circumstances"], self.circumstances)
        except KeyError as error:
            raise UserError(
                f"{point.path}: not a checkpoint that a run can resume from (it has no {error}); "
                "choose another OUTPUT_DIR"
            ) from None
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, UserError) or out_of_memory(error):
                raise
            raise UserError(
                f"{point.path}: damaged, a run cannot resume from it "
                f"({' '.join(str(error).split())[:200]}); remove it to resume from the one before"
            ) from None


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Where `new` differs from `old`: `max_update was 100, is now 200`, nested names dotted.

    A name that only `old` has is a setting that no longer exists, or had no effect.
    """
    found = []
    for name in sorted(new):
        a, b = old.get(name), new[name]
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            was, now = ("not set" if value is None else value for value in (a, b))
            found.append(f"{prefix}{name} was {was}, is now {now}")
    return found
