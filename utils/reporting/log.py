"""A run's log in DLLogger's format -> its configuration and curves, in little memory.

Lines are read one at a time.  Each value takes 8 bytes, for its update and itself.  Curves are
thinned for drawing.
"""

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wav2vec2.cli.errors import UserError

LOG = "nvlog.json"

LONGEST_LINE = 1 << 20
"""Bytes; a longer line is not a log line."""

MOST_METRICS = 300
MOST_UPDATES = 2**32 - 1
MARK = b"DLLL"

PROBE = "probe_uer"
"""End of the names of a probe's error rates, whose records stand beside those of training."""

POINTS = 1_000
"""Most points of a curve."""


@dataclass(frozen=True)
class Curve:
    """A metric over updates; each point summarises the log lines since the point before it."""

    update: np.ndarray
    """`[points]`, rising: the update of the last line that a point summarises."""
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    lines: int
    """Number of log lines, each update counted once."""
    median: float

    @property
    def last(self) -> float:
        return float(self.mean[-1])

    @property
    def thinned(self) -> bool:
        return self.lines > len(self.update)

    @classmethod
    def of(cls, updates: np.ndarray, values: np.ndarray, points: int = POINTS) -> "Curve":
        """The curve of values in logged order; the last value of an update counts.

        More than `points` updates are divided into equal spans, each with its mean, low and high.
        """
        updates, values = last_of_each(updates, values)
        values = values.astype(np.float64)
        lines, median = len(values), float(np.median(values))
        if lines <= points:
            return cls(updates.astype(np.int64), values, values, values, lines, median)
        steps = updates.astype(np.int64)
        span = (steps - steps[0]) * points // (steps[-1] - steps[0] + 1)
        starts = np.flatnonzero(np.append(True, span[1:] != span[:-1]))
        counts = np.diff(np.append(starts, lines))
        return cls(
            steps[starts + counts - 1],
            np.add.reduceat(values, starts) / counts,
            np.minimum.reduceat(values, starts),
            np.maximum.reduceat(values, starts),
            lines,
            median,
        )


def last_of_each(updates: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rising updates and the value that was logged last for each, of `[values]` in logged order."""
    if len(updates) > 1 and not (np.diff(updates.astype(np.int64)) > 0).all():
        order = np.argsort(updates, kind="stable")
        updates, values = updates[order], values[order]
        last = np.append(updates[1:] != updates[:-1], True)
        updates, values = updates[last], values[last]
    return updates, values


@dataclass
class RunLog:
    """The content of one log."""

    parameters: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    """The last record of step `[]`."""
    latencies: list[dict[str, float]] = field(default_factory=list)
    """One record per batch size of an inference benchmark."""
    started: str = ""
    """Date and time of the first line, as logged."""
    seconds: float = 0.0
    """Total duration of all jobs."""
    clock: tuple[np.ndarray, np.ndarray] = field(
        default_factory=lambda: (np.empty(0, np.int64), np.empty(0))
    )
    """Updates, rising, and the seconds of training by then, which never fall."""
    jobs: int = 1
    """How often the run was started."""
    notes: list[str] = field(default_factory=list)
    """What was skipped, and other remarks, one line each."""

    def seconds_at(self, updates: np.ndarray) -> np.ndarray | None:
        """Seconds of training by `updates` `[points]`, time between jobs not counted; None if the
        log has no times."""
        known, seconds = self.clock
        if not len(known) or not seconds[-1] > 0:
            return None
        return np.interp(updates, known, seconds)

    @property
    def updates(self) -> int:
        """The last logged update."""
        return max((int(curve.update[-1]) for curve in self.curves.values()), default=0)


def read_records(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield each record of a log, and None for each broken part of a line.

    A line may hold several records, where processes wrote over each other.
    """
    try:
        with open(path, "rb") as file:
            while line := file.readline(LONGEST_LINE):
                rest = line
                while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(LONGEST_LINE)
                if (record := parse_record(line.removeprefix(MARK))) is not None:
                    yield record
                else:
                    yield from (parse_record(p) for p in line.split(MARK) if p.strip())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; name a run's folder") from None


def parse_record(text: bytes) -> dict[str, Any] | None:
    """The record in a line without its mark; None if there is none."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("type") not in ("LOG", "METADATA"):
        return None
    return record


class RunLogBuilder:
    """Collects a log's records, in their order, into a RunLog."""

    def __init__(self) -> None:
        self.run = RunLog()
        self.skipped = self.records = 0
        self._values: dict[str, tuple[array, array]] = {}
        self._positions = array("I")  # updates of the training records, as logged
        self._times = (array("I"), array("d"))  # updates and the seconds of training by then
        # (epoch, seconds, values) of epochs of still unknown length
        self._waiting: list[tuple[int, float, dict[str, Any]]] = []
        self._per_epoch = 0
        self._epoch, self._update = 0, 0  # of the last training record
        self._elapsed = 0.0

    def add(self, record: dict[str, Any] | None) -> None:
        """Add a record; None counts as skipped."""
        if record is None:
            self.skipped += 1
            return
        self.records += 1
        self._add_time(record)
        step, data = record.get("step"), record.get("data")
        counts = step if is_counts(step) else None
        if record["type"] == "METADATA":
            return
        if not isinstance(data, dict):
            self.skipped += 1
        elif step == "PARAMETER":
            self._add_parameters(data)
        elif counts == []:
            self.run.summary = numbers(data)
        elif counts and len(counts) == 3:
            self._epoch, iteration, self._per_epoch = counts
            self._update = max(self._epoch - 1, 0) * self._per_epoch + iteration
            if not all(name.endswith(PROBE) for name in data):
                self._positions.append(min(self._update, MOST_UPDATES))
            for epoch, seconds, waiting in self._waiting:
                update = min(epoch * self._per_epoch, MOST_UPDATES)
                self._add_time_of(update, seconds)
                self._add_values(update, waiting)
            self._waiting.clear()
            self._add_time_of(self._update, self.run.seconds + self._elapsed)
            self._add_values(self._update, data)
        elif counts and len(counts) == 1 and "batch_size" in data:
            self.run.latencies.append(numbers(data))
        elif counts and len(counts) == 1:
            self._add_epoch(counts[0], data)
        else:
            self.skipped += 1

    def _add_epoch(self, epoch: int, data: dict[str, Any]) -> None:
        """Add means of an epoch or a validation, at the update of the training record before it.

        The first ones of a job have no such record, and stand at the end of their epoch.
        """
        if epoch == self._epoch and self._positions:
            self._add_values(self._update, data)
        elif epoch == 0 or self._per_epoch:
            if not self._positions:
                self._add_time_of(epoch * self._per_epoch, self.run.seconds + self._elapsed)
            self._add_values(epoch * self._per_epoch, data)
        else:
            self._waiting.append((epoch, self.run.seconds + self._elapsed, data))

    def _add_time_of(self, update: int, seconds: float) -> None:
        if update <= MOST_UPDATES:
            self._times[0].append(update)
            self._times[1].append(seconds)

    def _add_values(self, update: int, data: dict[str, Any]) -> None:
        if update > MOST_UPDATES:
            self.skipped += 1
            return
        for name, value in numbers(data).items():
            if name not in self._values:
                if len(self._values) == MOST_METRICS:
                    continue
                self._values[name] = (array("I"), array("f"))
            updates, values = self._values[name]
            updates.append(update)
            values.append(value)

    def _add_parameters(self, data: dict[str, Any]) -> None:
        parameters = self.run.parameters
        for name, value in data.items():
            if name == next(iter(parameters), None):  # the first one again: another job
                self.run.jobs += 1
            parameters[name] = value

    def _add_time(self, record: dict[str, Any]) -> None:
        try:
            elapsed = float(record["elapsedtime"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        if not math.isfinite(elapsed):
            return
        if elapsed < 0.5 * self._elapsed:  # another job, not another process a moment behind
            self.run.seconds += self._elapsed
        self._elapsed = elapsed
        self.run.started = self.run.started or str(record.get("datetime", ""))[:40]

    def finish(self) -> RunLog:
        """The log of all records added."""
        run = self.run
        run.seconds += self._elapsed
        for epoch, seconds, waiting in self._waiting:  # no training records: positions are epochs
            self._add_time_of(epoch, seconds)
            self._add_values(epoch, waiting)
        if self._times[0]:
            updates, last = last_of_each(*map(np.asarray, self._times))
            run.clock = updates.astype(np.int64), np.maximum.accumulate(last)
        for name in sorted(self._values):
            updates, values = self._values.pop(name)
            curve = Curve.of(np.frombuffer(updates, np.uint32), np.frombuffer(values, np.float32))
            run.curves[name] = curve
        self._note_repeats()
        if self.skipped:
            run.notes.append(f"lines cut off or no log records, skipped: {self.skipped:,}")
        return run

    def _note_repeats(self) -> None:
        positions = np.frombuffer(self._positions, np.uint32).astype(np.int64)
        repeated = len(positions) - len(np.unique(positions))
        if not repeated:
            return
        backwards = int((np.diff(positions) <= 0).sum())
        how = (
            "in mixed order, as if several processes wrote to this file"
            if backwards > max(self.run.jobs, 1)
            else "by a run that was started again"
        )
        self.run.notes.append(
            f"{repeated:,} updates were logged more than once, {how}; the later line counts"
        )


def numbers(data: dict[str, Any]) -> dict[str, float]:
    """The values that are finite numbers in the range of float32."""
    return {
        name: value
        for name, value in data.items()
        if type(value) in (int, float) and -3e38 < value < 3e38
    }


def is_counts(step: Any) -> bool:
    """Whether a record's step is a list of numbers such as [epoch, iteration, per epoch]."""
    return isinstance(step, list) and all(type(n) is int and n >= 0 for n in step)


def read_log(path: Path) -> RunLog:
    """Read a run's log; UserError if it holds nothing to report."""
    builder = RunLogBuilder()
    for record in read_records(path):
        builder.add(record)
    if not builder.records and not builder.skipped:
        raise UserError(f"{path}: is empty: the run has not logged anything yet")
    run = builder.finish()
    if not run.curves and not run.parameters and not run.summary:
        raise UserError(f"{path}: none of its {builder.skipped:,} lines is a log line of a run")
    return run
