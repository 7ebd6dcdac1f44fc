"""Whether training is still worth its time: finite gradients, and what the task itself knows."""

from collections.abc import Callable
from typing import Any

import torch

from common.runtime import distributed
from common.training.metrics import Sums
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import HealthError

MAX_NON_FINITE = 10
"""Updates in a row with a gradient that is not finite, after which the run gives up."""

CHECK_EVERY = 100
"""Updates between two looks at the task's means."""

PATIENCE = 3
"""Looks in a row that must find the same before the run gives up: a passing dip is no collapse."""

DATA_WAIT_WARNING = 10.0
"""Percent of an epoch spent waiting for data above which the run says so."""


class Health:
    """Watches a run.  Every process calls it alike, and all come to the same judgement."""

    def __init__(self, judge: Callable[[dict[str, Any]], str | None], device: torch.device):
        """`judge`: sums over CHECK_EVERY updates -> why going on is pointless, or None."""
        self._judge = judge
        self._device = device
        self._sums = Sums()
        self._updates = 0
        self._ill = 0
        self._non_finite = 0

    def applied(self, sums: Sums) -> None:
        """An update took place with these sums; HealthError after PATIENCE bad looks in a row."""
        self._non_finite = 0
        self._sums.merge(sums)
        self._updates += 1
        if self._updates < CHECK_EVERY:
            return
        reason = self._judge(self._sums.total(self._device))
        self._sums, self._updates = Sums(), 0
        self._ill = self._ill + 1 if reason else 0
        if self._ill == PATIENCE:
            raise HealthError(f"{reason} (seen for {PATIENCE * CHECK_EVERY} updates)")

    def not_finite(self, update: int, utterances: list[str]) -> None:
        """An update was skipped because its gradient was not finite; names its utterances, and
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
                f"with utterances {shown}; look at this audio, or lower --learning_rate"
            )


def warn_data_wait(epoch: int, percent: float, workers: int) -> None:
    """Say so if an epoch spent much of its time waiting for data."""
    if percent > DATA_WAIT_WARNING:
        notice(
            f"warning: epoch {epoch}: {percent:.0f} % of the time went into waiting for data; "
            f"raise --num_workers (now {workers})"
        )
