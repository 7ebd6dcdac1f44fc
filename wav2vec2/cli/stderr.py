"""Standard error without the output of C libraries."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ALONE = threading.Lock()
"""One at a time: a second call would restore the first one's silence instead of the output."""


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Inside, nothing is written to standard error, also not by C code.

    For calls of C libraries, whose notes and progress bars would stand beside our one-line errors.
    Takes some microseconds.
    """
    with _ALONE:
        try:
            kept = os.dup(2)
        except OSError:  # it is closed, so there is nothing to do
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
