"""Standard error without what C libraries write there themselves."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ALONE = threading.Lock()
"""Of two at a time, the second would take the first one's silence for what to come back to."""


@contextmanager
def silent_stderr() -> Iterator[None]:
    """For calls into libraries alone: the notes and progress bars that they write past Python would
    stand beside the one line that we say.  Takes some microseconds."""
    with _ALONE:
        try:
            kept = os.dup(2)
        except OSError:  # closed, which is as silent
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
