"""What a command tells its user beside its results: notices and log lines on standard error."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = ("wav2vec2", "common", "tasks", "utils")
"""Packages whose log lines a command shows."""


def notice(text: str) -> None:
    """Print a line on standard error, in one process of all."""
    if os.environ.get("RANK", "0") == "0":
        if "tqdm" in sys.modules:  # a progress line may be shown: above it
            sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()
        else:
            print(text, file=sys.stderr, flush=True)


class _NoticeHandler(logging.Handler):
    """Prints the message of each log record as a notice."""

    def emit(self, record: logging.LogRecord) -> None:
        notice(self.format(record))


@contextmanager
def logs_as_notices() -> Iterator[None]:
    """Inside, log lines of PACKAGES from INFO up are printed as notices.

    For commands.  Without it nothing is configured: a program that imports the library decides
    with its own logging.  The loggers of other packages stay as they are.
    """
    handler = _NoticeHandler()
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in PACKAGES}
    for logger in levels:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.removeHandler(handler)
            logger.setLevel(level)
