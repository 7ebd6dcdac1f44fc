"""Signals that ask a run to stop: noted at once, obeyed between two updates."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from wav2vec2.cli.errors import StoppedBySignal

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
def stopped_by_signals(advice: str) -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 raise StoppedBySignal, whose message ends with `advice`.

    For commands that keep what they have done; as with Ctrl-C, temporary files are removed.  Does
    nothing outside the main thread.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedBySignal(f"stopped by {signal.Signals(number).name}; {advice}")

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def delayed_signals() -> Iterator[None]:
    """Inside, the signals of STOPPING wait; what they do happens at the end.

    For calls of C code that calls Python, where an exception of a signal's handler would be lost.
    Does nothing outside the main thread.
    """
    arrived: dict[int, FrameType | None] = {}
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, arrived.__setitem__) for n in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in arrived.items():
            handler = before[number]
            if callable(handler):
                handler(number, frame)
            elif handler == signal.SIG_DFL:
                signal.raise_signal(number)


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
