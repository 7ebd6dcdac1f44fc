import os
import signal

import pytest

from common.runtime.signals import STOPPING, StopRequest, uninterrupted


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
