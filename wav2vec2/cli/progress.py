"""Progress of a long command: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 30.0
"""Where standard error is no terminal."""


def format_duration(seconds: float) -> str:
    """`0:07`, `12:05` or `3:20:00`: minutes and seconds, with hours from one hour up."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_progress(done: float, total: float, seconds: float, initial: float = 0) -> str:
    """`350/2000 (17 %, 3:10 left)`; `seconds`: what the work since `initial` took."""
    share = 100 * done / total if total else 100.0
    if done > initial:
        rest = seconds / (done - initial) * max(total - done, 0)
        return f"{done:.0f}/{total:.0f} ({share:.0f} %, {format_duration(rest)} left)"
    return f"{done:.0f}/{total:.0f} ({share:.0f} %)"


class Progress:
    """Counts what is done of a known total; use it in a `with` block."""

    def __init__(
        self,
        total: int,
        title: str,
        unit: str = "files",
        *,
        enabled: bool = True,
        scale: bool = False,
        initial: int = 0,
        file: TextIO | None = None,
    ):
        """`scale`: shows k and M, for bytes.  `initial`: done before, and not part of the rate."""
        self.total, self.title, self.unit, self.enabled = total, title, unit, enabled
        self.done = self.initial = initial
        self.file = file or sys.stderr
        self.start = self.shown = time.monotonic()
        self.bar = None
        if enabled and self.file.isatty():
            from tqdm import tqdm  # only a terminal needs it

            self.bar = tqdm(
                total=total,
                initial=initial,
                desc=title,
                unit=unit if scale else f" {unit}",
                unit_scale=scale,
                file=self.file,
                dynamic_ncols=True,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.enabled and time.monotonic() - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = time.monotonic()
            print(self.line(), file=self.file, flush=True)

    def line(self) -> str:
        """What is printed outside a terminal: `import, files: 350/2000 (17 %, 3:10 left)`."""
        seconds = time.monotonic() - self.start
        done = format_progress(self.done, self.total, seconds, self.initial)
        return f"{self.title}, {self.unit}: {done}"


def progress(
    items: Iterable[Item], total: int, title: str, unit: str = "files", *, enabled: bool = True
) -> Iterator[Item]:
    """The items; each counts as done when the next one is asked for."""
    with Progress(total, title, unit, enabled=enabled) as bar:
        for item in items:
            yield item
            bar.advance()
