import os
import signal

import pytest

from common.runtime.signals import (
    STOPPING,
    StopRequest,
    obey_signals,
    stopped_by_signals,
    uninterrupted,
)
from common.runtime.worker_pool import map_in_processes
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


@pytest.mark.parametrize("number", STOPPING)
def test_a_command_stops_where_it_obeys_signals(number):
    before = [signal.getsignal(n) for n in STOPPING]
    done = []
    expected, message = {
        signal.SIGINT: (KeyboardInterrupt, "^$"),
        signal.SIGTERM: (StoppedBySignal, "^stopped by SIGTERM; run it again$"),
        signal.SIGUSR1: (StoppedBySignal, "^stopped by SIGUSR1; run it again$"),
    }[number]
    with pytest.raises(expected, match=message), stopped_by_signals("run it again"):
        obey_signals()
        os.kill(os.getpid(), number)
        done.append("whole")
        obey_signals()
        done.append("too far")
    assert done == ["whole"]
    obey_signals()  # the request ended with the block
    assert [signal.getsignal(n) for n in STOPPING] == before


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_does_not_disturb_what_runs_when_it_arrives(number):
    """An exception of a handler would be lost in a finalizer, and crash a module's C code."""

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), number)

    with pytest.raises((StoppedBySignal, KeyboardInterrupt)), stopped_by_signals("run it again"):
        Finalized()
        obey_signals()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_pool_of_workers_stops_between_tasks(number, workers):
    taken = []
    expected = KeyboardInterrupt if number == signal.SIGINT else StoppedBySignal
    words = {"flag": "--workers", "unit": "number"}
    with pytest.raises(expected), stopped_by_signals("run it again"):
        for result in map_in_processes(abs, range(1000), workers, **words):
            taken.append(result)
            os.kill(os.getpid(), number)
    assert taken == list(range(len(taken))) and len(taken) < 100
