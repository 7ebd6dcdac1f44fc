"""Learning rates: pure functions of the update number, counted from 1."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

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


class Extension(NamedTuple):
    """Where a run left the decay of its schedule for that of a longer one."""

    update: int
    """Last update before."""
    rate: float
    """Learning rate of that update."""


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

    def function(self, extension: Extension | None = None) -> Callable[[int], float]:
        """The schedule: update, counted from 1 -> learning rate.

        After an `extension` the rate is at most that of the extension plus the warm-up's slope,
        peak / warm-up updates, for each update since.
        """
        schedule = self._function()
        if extension is None:
            return schedule

        def limited(update: int) -> float:
            since = update - extension.update
            if since <= 0 or not self.warmup_updates:
                return schedule(update)
            limit = extension.rate + self.learning_rate * since / self.warmup_updates
            return min(schedule(update), limit)

        return limited

    def _function(self) -> Callable[[int], float]:
        peak, warmup, hold = self.learning_rate, self.warmup_updates, self.hold_updates
        total = self.max_update
        if self.schedule == "polynomial":
            return partial(polynomial, peak=peak, warmup=warmup, total=total, power=self.power)
        decay = total - warmup - hold
        return partial(three_stage, peak=peak, warmup=warmup, hold=hold, decay=decay)


@dataclass(frozen=True)
class ResumedSchedule:
    """The schedule of a run that is resumed."""

    options: ScheduleOptions
    extension: Extension | None = None
    """The last extension that changed the learning rate."""
    note: str = ""
    """A line about an extension that begins now; empty: none does."""


def resume_schedule(
    given: ScheduleOptions, extend: bool, recipe: dict[str, Any], done: int
) -> ResumedSchedule:
    """The schedule of a run with the saved `recipe` after `done` updates.

    `extend`: the run is extended to `given.max_update`.  Warm-up and hold stay as they were.  The
    schedule is that of a run which was planned for so many updates.  If its rate is above the last
    one, the rate rises to it with the slope of the warm-up.  UserError if it is not longer.
    """
    extension = Extension(*recipe["extended"]) if "extended" in recipe else None
    total = recipe["max_update"]
    if not extend:
        return ResumedSchedule(given, extension)
    if given.max_update < total:
        raise UserError(
            f"--max_update {given.max_update}: --extend can only raise it; this run is planned for "
            f"{total} updates and has done {done}; give more than {total}"
        )
    kept = {name: recipe[name] for name in ("warmup_updates", "hold_updates")}
    options, before = replace(given, **kept), replace(given, **kept, max_update=total)
    if given.max_update == total:
        return ResumedSchedule(options, extension)
    old, new = before.function(extension), options.function()
    note = (
        f"extended from {total} to {given.max_update} updates after update {done}: from here, the "
        f"learning rate is that of a run of {given.max_update} updates (warm-up "
        f"{options.warmup_updates}, hold {options.hold_updates})"
    )
    if old(done + 1) != new(done + 1):
        extension = Extension(done, old(done))
        note += f"; it rises to it from {old(done):.3g} with the slope of the warm-up"
    return ResumedSchedule(options, extension, note)
