"""Signals that ask a run to stop: noted at once, obeyed between two updates."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
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


_request = StopRequest()
"""What `obey_signals` obeys."""


@contextmanager
def stopped_by_signals(advice: str) -> Iterator[None]:
    """Inside, `obey_signals` stops the command once a signal of STOPPING has arrived.

    For commands that keep what they have done: StoppedBySignal's message ends with `advice`.
    Handlers note the signal and raise nothing: an exception could come while C code runs, such as
    the import of a compiled module, and be lost or crash the process.  Does nothing outside the
    main thread.
    """
    global _request
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _request
    try:
        with StopRequest() as _request:
            try:
                yield
            except StoppedBySignal as error:
                raise StoppedBySignal(f"{error}; {advice}") from None
    finally:
        _request = before


@contextmanager
def interrupts_left_to_parent() -> Iterator[None]:
    """Processes started inside do not receive Ctrl-C, sent to all: this one answers it."""
    resource_tracker.ensure_running()  # its start would end the block of the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def note_signal(number: int) -> None:
    """`obey_signals` obeys this one from now on."""
    _request.received = signal.Signals(number)


def obey_signals() -> None:
    """Stop here if a signal has asked for it: StoppedBySignal, or KeyboardInterrupt for Ctrl-C."""
    if _request.received == signal.SIGINT:
        raise KeyboardInterrupt
    if _request.received:
        raise StoppedBySignal(f"stopped by {_request.received.name}")


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
