"""Signals that ask a run to stop: noted at once, obeyed between two updates."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What schedulers send before they end a job, and Ctrl-C."""


class StopRequest:
    """While entered, notes the first of these signals; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)


@contextmanager
def uninterrupted(*, obey: bool = True) -> Iterator[None]:
    """Delay the death of a loader worker, which torch raises from its signal handler, until the
    block is done.  `obey=False`: ignore it."""
    arrived: list[tuple[int, FrameType | None]] = []
    handler = signal.signal(signal.SIGCHLD, lambda *arguments: arrived.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
    if obey and arrived and callable(handler):
        handler(*arrived[-1])
