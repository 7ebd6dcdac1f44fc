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

WINDOW_SHARE, SHORTEST_WINDOW = 0.01, 10
"""Updates of which a task's means are taken for a warning: this share of a run, but at least so
many."""

WARNING_PATIENCE = 5
"""Such windows in a row that must show a problem before a warning is printed."""

WARNING_INTERVAL = 10
"""Windows from one warning to the next, while the problem lasts."""

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


class Warnings:
    """Prints a warning while a task finds a problem that is no reason to stop.

    Every process calls it alike.  Before the end of the warm-up and after it, windows are counted
    apart: none holds updates of both.
    """

    def __init__(
        self,
        problem: Callable[[Totals, bool], str | None],
        device: torch.device,
        *,
        warmup_updates: int,
        max_update: int,
    ):
        """`problem`: totals of some updates, and whether the warm-up was over -> what is wrong and
        how to fix it, or None."""
        self._problem, self._device = problem, device
        self._warmup = warmup_updates
        self._window = max(SHORTEST_WINDOW, round(WINDOW_SHARE * max_update))
        self._sums = Sums()
        self._updates = 0
        self._seen = 0  # windows in a row

    def applied(self, update: int, sums: Sums) -> None:
        """Update `update`, counted from 1, took place with these sums."""
        self._sums.merge(sums)
        self._updates += 1
        if self._updates == self._window:
            totals = Totals.over_ranks(self._sums, self._device)
            problem = self._problem(totals, update > self._warmup)
            self._seen = self._seen + 1 if problem else 0
            since = self._seen - WARNING_PATIENCE
            if problem and since >= 0 and since % WARNING_INTERVAL == 0:
                updates = self._seen * self._window
                notice(f"warning: update {update}: {problem} (seen for {updates} updates)")
        if self._updates == self._window or update == self._warmup:
            self._sums, self._updates = Sums(), 0


def warn_data_wait(epoch: int, percent: float, workers: int) -> None:
    """Print a warning if an epoch spent much of its time waiting for data."""
    if percent > DATA_WAIT_WARNING:
        notice(
            f"warning: epoch {epoch}: {percent:.0f} % of the time was spent waiting for data; "
            f"raise --num_workers (now {workers})"
        )
