import os
import sys
import threading

import pytest

from wav2vec2.cli.stderr import silent_stderr


def test_what_is_written_past_python_is_not_seen_and_what_follows_is(capfd):
    with pytest.raises(ValueError), silent_stderr():
        os.write(2, b"a note of a library\n")
        raise ValueError
    print("our own line", file=sys.stderr)
    assert capfd.readouterr().err == "our own line\n"


def test_threads_leave_standard_error_as_it_was(capfd):
    first, second = threading.Event(), threading.Event()

    def outlast_the_other():
        first.wait()
        with silent_stderr():
            second.wait(1)

    thread = threading.Thread(target=outlast_the_other)
    thread.start()
    with silent_stderr():
        first.set()
        thread.join(0.1)
    second.set()
    thread.join()
    os.write(2, b"visible\n")
    assert capfd.readouterr().err == "visible\n"


def test_no_descriptor_is_left_open_and_a_closed_one_stays_closed():
    before = os.listdir("/dev/fd")
    with silent_stderr():
        pass
    assert os.listdir("/dev/fd") == before
    kept = os.dup(2)
    os.close(2)
    try:
        with silent_stderr():
            pass
        with pytest.raises(OSError):
            os.fstat(2)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
