"""A run's log in DLLogger's lines -> its configuration and curves, in bounded memory.

Lines are read one at a time.  Of each value, the update and the number are kept, 8 bytes in all;
what is returned is thinned for drawing.
"""

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wav2vec2.cli.errors import UserError

LOG = "nvlog.json"

LONGEST_LINE = 1 << 20
"""Bytes; a longer line is no log line."""

MOST_METRICS = 300
MOST_UPDATES = 2**32 - 1
MARK = b"DLLL"

POINTS = 1_000
"""Of a curve, at most."""


@dataclass(frozen=True)
class Curve:
    """A metric over updates; each point stands for the log lines since the point before it."""

    update: np.ndarray
    """`[points]`, rising: of the last line that the point stands for."""
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    lines: int
    """Log lines in all, each update counted once."""
    median: float

    @property
    def last(self) -> float:
        return float(self.mean[-1])

    @property
    def thinned(self) -> bool:
        return self.lines > len(self.update)

    @classmethod
    def of(cls, updates: np.ndarray, values: np.ndarray, points: int = POINTS) -> "Curve":
        """Of values in the order in which they were logged: of an update, the last one counts.

        With more than `points` updates they are joined in equal spans of updates; means are of a
        span, lows and highs are kept.
        """
        if len(updates) > 1 and not (np.diff(updates.astype(np.int64)) > 0).all():
            order = np.argsort(updates, kind="stable")
            updates, values = updates[order], values[order]
            last = np.append(updates[1:] != updates[:-1], True)
            updates, values = updates[last], values[last]
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


@dataclass
class RunLog:
    """What one log says."""

    parameters: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    """The last record of step `[]`."""
    latencies: list[dict[str, float]] = field(default_factory=list)
    """Of a benchmark of inference, a record a batch size."""
    started: str = ""
    """When the first line was written, as the log has it."""
    seconds: float = 0.0
    """In all its jobs together."""
    jobs: int = 1
    """Times that it was started."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and what else a reader should know; a line each."""

    @property
    def updates(self) -> int:
        """The last update there is."""
        return max((int(curve.update[-1]) for curve in self.curves.values()), default=0)


def lines_of(file: BinaryIO) -> Iterator[bytes | None]:
    """Each line, None for one that is too long to be a log's."""
    while line := file.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (line := file.readline(LONGEST_LINE)) and not line.endswith(b"\n"):
            pass
        yield None


def parse(text: bytes) -> dict[str, Any] | None:
    """The record of a line without its mark, None if it is none."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("type") not in ("LOG", "METADATA"):
        return None
    return record


class Reader:
    """Takes a log's lines in their order."""

    def __init__(self) -> None:
        self.run = RunLog()
        self._values: dict[str, tuple[array, array]] = {}
        self._positions = array("I")  # of training lines, as they came
        self._waiting: list[tuple[int, dict[str, Any]]] = []  # epochs whose length is not known yet
        self._per_epoch = 0
        self._epoch, self._update = 0, 0  # of the last training line
        self._elapsed = 0.0
        self._first_parameter: str | None = None
        self.skipped = self.records = 0

    def take(self, line: bytes | None) -> None:
        """A line; in one where records of several processes ran together, each that is whole."""
        if line is not None and not line.strip():
            return
        record = parse(line.strip().removeprefix(MARK)) if line else None
        if record is not None:
            self._record(record)
        elif line is None or line.count(MARK) < 2:
            self.skipped += 1
        else:
            for part in line.split(MARK):
                record = parse(part)
                if record is not None:
                    self._record(record)
                elif part.strip():
                    self.skipped += 1

    def _record(self, record: dict[str, Any]) -> None:
        self.records += 1
        self._clock(record)
        if record["type"] == "METADATA":
            return
        step, data = record.get("step"), record.get("data")
        if not isinstance(data, dict):
            self.skipped += 1
        elif step == "PARAMETER":
            self._parameter(data)
        elif step == []:
            self.run.summary = numbers(data)
        elif is_counts(step) and len(step) == 3:
            self._epoch, self._per_epoch = step[0], step[2]
            self._update = max(step[0] - 1, 0) * step[2] + step[1]
            self._positions.append(min(self._update, MOST_UPDATES))
            for epoch, waiting in self._waiting:
                self._keep(min(epoch * self._per_epoch, MOST_UPDATES), waiting)
            self._waiting.clear()
            self._keep(self._update, data)
        elif is_counts(step) and len(step) == 1 and "batch_size" in data:
            self.run.latencies.append(numbers(data))
        elif is_counts(step) and len(step) == 1:
            self._epoch_record(step[0], data)
        else:
            self.skipped += 1

    def _epoch_record(self, epoch: int, data: dict[str, Any]) -> None:
        """Means of an epoch and validations stand at the training line before them; the first
        ones of a job have none, and stand where their epoch ends."""
        if epoch == self._epoch and self._positions:
            self._keep(self._update, data)
        elif epoch == 0 or self._per_epoch:
            self._keep(epoch * self._per_epoch, data)
        else:
            self._waiting.append((epoch, data))

    def _keep(self, update: int, data: dict[str, Any]) -> None:
        if update > MOST_UPDATES:
            self.skipped += 1
            return
        for name, value in numbers(data).items():
            found = self._values.get(name)
            if found is None:
                if len(self._values) == MOST_METRICS:
                    continue
                found = self._values[name] = (array("I"), array("f"))
            found[0].append(update)
            found[1].append(value)

    def _parameter(self, data: dict[str, Any]) -> None:
        for name, value in data.items():
            if self._first_parameter is None:
                self._first_parameter, self.run.jobs = name, 0
            self.run.jobs += name == self._first_parameter
            self.run.parameters[name] = value

    def _clock(self, record: dict[str, Any]) -> None:
        try:
            elapsed = float(record["elapsedtime"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        if not math.isfinite(elapsed):
            return
        if elapsed < self._elapsed:  # another job, or another process a moment behind
            self.run.seconds += self._elapsed if elapsed < 0.5 * self._elapsed else 0.0
        self._elapsed = elapsed
        if not self.run.started:
            self.run.started = str(record.get("datetime", ""))[:40]

    def finish(self) -> RunLog:
        """What the lines amount to."""
        run = self.run
        run.seconds += self._elapsed
        for epoch, waiting in self._waiting:  # without a training line, epochs are all there is
            self._keep(epoch, waiting)
        for name in sorted(self._values):
            updates, values = self._values.pop(name)
            curve = Curve.of(np.frombuffer(updates, np.uint32), np.frombuffer(values, np.float32))
            run.curves[name] = curve
        self._note_repeats()
        if self.skipped:
            lines = "1 line is" if self.skipped == 1 else f"{self.skipped:,} lines are"
            run.notes.append(f"{lines} no log lines, or cut off; skipped")
        return run

    def _note_repeats(self) -> None:
        positions = np.frombuffer(self._positions, np.uint32).astype(np.int64)
        repeated = len(positions) - len(np.unique(positions))
        if not repeated:
            return
        backwards = int((np.diff(positions) <= 0).sum())
        how = (
            "in mixed order, as if several processes had written to this file"
            if backwards > max(self.run.jobs, 1)
            else "by a run that was started again"
        )
        self.run.notes.append(
            f"{repeated:,} updates were logged more than once, {how}; the later line counts"
        )


def numbers(data: dict[str, Any]) -> dict[str, float]:
    """The values that are finite numbers and fit a curve."""
    return {
        name: value
        for name, value in data.items()
        if type(value) in (int, float) and -3e38 < value < 3e38
    }


def is_counts(step: Any) -> bool:
    return isinstance(step, list) and all(type(n) is int and n >= 0 for n in step)


def read_log(path: Path) -> RunLog:
    """UserError, in one line, if there is nothing in it to report."""
    reader = Reader()
    try:
        with open(path, "rb") as file:
            for line in lines_of(file):
                reader.take(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; name a run's folder") from None
    if not reader.records and not reader.skipped:
        raise UserError(f"{path}: is empty: the run has not logged anything yet")
    run = reader.finish()
    if not run.curves and not run.parameters and not run.summary:
        raise UserError(f"{path}: none of its {reader.skipped:,} lines is a log line of a run")
    return run
