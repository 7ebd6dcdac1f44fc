"""Learning rates: pure functions of the update number, counted from 1."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least


def polynomial(update: int, *, peak: float, warmup: int, total: int, power: float = 1.0) -> float:
    """Linear from 0 to `peak` over `warmup` updates, then polynomial decay to 0 at `total`.

    The first update has the rate of the second, because a rate of 0 would waste it.
    """
    done = update - 1
    if done < warmup:
        return peak * max(done, 1) / warmup
    if done >= total:
        return 0.0
    return peak * (1 - (done - warmup) / (total - warmup)) ** power


START_SCALE, END_SCALE = 0.01, 0.05
"""Where `three_stage` starts and ends, relative to the peak."""


def three_stage(update: int, *, peak: float, warmup: int, hold: int, decay: int) -> float:
    """Linear from `START_SCALE * peak`, constant, then exponential decay to `END_SCALE * peak`.

    The schedule of wav2vec 2.0 fine-tuning (arXiv 2006.11477, section 4.3).
    """
    done = update - 1
    if done < warmup:
        return peak * (START_SCALE + (1 - START_SCALE) * done / warmup)
    if done < warmup + hold:
        return peak
    if done < warmup + hold + decay:
        return peak * END_SCALE ** ((done - warmup - hold) / decay)
    return peak * END_SCALE


@dataclass(frozen=True)
class ScheduleOptions:
    """Learning rate"""

    learning_rate: float = 5e-4
    """Peak learning rate."""
    schedule: Literal["polynomial", "three_stage"] = "polynomial"
    """polynomial: warm-up, then decay to 0; three_stage: warm-up, hold, exponential decay."""
    max_update: int = 400_000
    """Updates to train for; the schedule ends here."""
    warmup_updates: int = 32_000
    """Updates of linear warm-up."""
    hold_updates: int = 0
    """Updates at the peak (three_stage)."""
    power: float = 1.0
    """Exponent of the polynomial decay."""

    def __post_init__(self) -> None:
        require_at_least(self, max_update=1)
        require_at_least(self, learning_rate=0, warmup_updates=0, hold_updates=0)
        if self.warmup_updates + self.hold_updates > self.max_update:
            raise UserError(
                f"--warmup_updates {self.warmup_updates} and --hold_updates {self.hold_updates} "
                f"exceed --max_update {self.max_update}; lower them"
            )

    def function(self) -> Callable[[int], float]:
        """The schedule: update, counted from 1 -> learning rate."""
        peak, warmup, hold = self.learning_rate, self.warmup_updates, self.hold_updates
        total = self.max_update
        if self.schedule == "polynomial":
            return partial(polynomial, peak=peak, warmup=warmup, total=total, power=self.power)
        decay = total - warmup - hold
        return partial(three_stage, peak=peak, warmup=warmup, hold=hold, decay=decay)
