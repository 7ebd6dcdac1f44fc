import os
import signal

import pytest

from common.runtime.signals import (
    STOPPING,
    StopRequest,
    delayed_signals,
    stopped_by_signals,
    uninterrupted,
)
from wav2vec2.cli.errors import StoppedBySignal


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_noted_and_handlers_come_back(number):
    before = [signal.getsignal(n) for n in STOPPING]
    with StopRequest() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == number
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == number  # the first one counts
    assert [signal.getsignal(n) for n in STOPPING] == before


def test_a_second_interrupt_is_obeyed_at_once():
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_what_a_handler_raises_waits_for_the_blocks_end():
    done = []

    def handler(number, frame):
        raise RuntimeError("worker died")

    before = signal.signal(signal.SIGCHLD, handler)
    try:
        with pytest.raises(RuntimeError, match="worker died"), uninterrupted():
            os.kill(os.getpid(), signal.SIGCHLD)
            done.append("whole")
        assert done == ["whole"]
        with uninterrupted(obey=False):
            os.kill(os.getpid(), signal.SIGCHLD)
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_command_is_stopped_by_an_error(number):
    before = [signal.getsignal(n) for n in STOPPING]
    name = signal.Signals(number).name
    with (
        pytest.raises(StoppedBySignal, match=f"stopped by {name}; run it again"),
        stopped_by_signals("run it again"),
    ):
        os.kill(os.getpid(), number)
    assert [signal.getsignal(n) for n in STOPPING] == before


@pytest.mark.parametrize("number", STOPPING)
def test_signals_wait_for_the_end_of_the_block(number):
    done = []
    expected = KeyboardInterrupt if number == signal.SIGINT else StoppedBySignal
    with pytest.raises(expected), stopped_by_signals("run it again"):
        before = [signal.getsignal(n) for n in STOPPING]
        try:
            with delayed_signals():
                os.kill(os.getpid(), number)
                done.append("whole")
            done.append("too far")
        finally:
            assert [signal.getsignal(n) for n in STOPPING] == before
    assert done == ["whole"]
