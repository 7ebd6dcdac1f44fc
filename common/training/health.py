"""Whether training is still worth its time: finite gradients, and what the task itself knows."""

from collections.abc import Callable

import torch

from common.runtime import distributed
from common.training.meter import Sums, Totals
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import HealthError

MAX_NON_FINITE = 10
"""Updates in a row with a gradient that is not finite, after which the run stops."""

CHECK_EVERY = 100
"""Updates between two checks of the task's means."""

PATIENCE = 3
"""Checks in a row that must find a collapse before the run stops: a short dip is no collapse."""

DATA_WAIT_WARNING = 10.0
"""Percent of an epoch spent waiting for data above which a warning is printed."""


class Health:
    """Watches a run.  Every process calls it alike, and all come to the same result."""

    def __init__(self, collapse_reason: Callable[[Totals], str | None], device: torch.device):
        """`collapse_reason`: totals of some updates -> why training is pointless, or None."""
        self._collapse_reason = collapse_reason
        self._device = device
        self._sums = Sums()
        self._updates = 0
        self._collapsed = 0  # checks in a row
        self._non_finite = 0  # updates in a row

    def applied(self, sums: Sums) -> None:
        """An update took place with these sums; HealthError after PATIENCE collapsed checks."""
        self._non_finite = 0
        self._sums.merge(sums)
        self._updates += 1
        if self._updates < CHECK_EVERY:
            return
        reason = self._collapse_reason(Totals.over_ranks(self._sums, self._device))
        self._sums, self._updates = Sums(), 0
        self._collapsed = self._collapsed + 1 if reason else 0
        if self._collapsed == PATIENCE:
            raise HealthError(f"{reason} (seen for {PATIENCE * CHECK_EVERY} updates)")

    def not_finite(self, update: int, utterances: list[str]) -> None:
        """An update was skipped because its gradient was not finite: prints its utterances, and
        raises HealthError after MAX_NON_FINITE in a row."""
        self._non_finite += 1
        ids = [key for keys in distributed.gather(utterances) for key in keys]
        shown = ", ".join(ids[:20]) + (", ..." if len(ids) > 20 else "")
        notice(
            f"warning: update {update}: gradient is not finite, nothing was learnt from "
            f"utterances {shown}"
        )
        if self._non_finite == MAX_NON_FINITE:
            raise HealthError(
                f"{MAX_NON_FINITE} updates in a row had a gradient that is not finite, the last "
                f"with utterances {shown}; check this audio, or lower --learning_rate"
            )


def warn_data_wait(epoch: int, percent: float, workers: int) -> None:
    """Print a warning if an epoch spent much of its time waiting for data."""
    if percent > DATA_WAIT_WARNING:
        notice(
            f"warning: epoch {epoch}: {percent:.0f} % of the time was spent waiting for data; "
            f"raise --num_workers (now {workers})"
        )
