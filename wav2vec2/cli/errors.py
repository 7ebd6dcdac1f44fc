"""The user-facing errors and the exit codes, in one table.

0  done
1  done, but some inputs failed (they are listed)
2  a user's mistake: one line says which file, line or flag, and the way out
3  stopped by health: collapse, loss scale, or non-finite gradients
4  stopped by a signal after saving; the job can be queued again
5  a peer process was lost
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from wav2vec2.cli.console import logs_as_notices


class ExitCode(IntEnum):
    """What a command's exit status means; the launch scripts rely on it."""

    DONE = 0
    SOME_FAILED = 1
    USER_ERROR = 2
    HEALTH = 3
    SIGNAL = 4
    PEER_LOST = 5


class UserError(ValueError):
    """Something the user can mend; its one-line message names the place and the way out."""

    exit_code = ExitCode.USER_ERROR


class HealthError(RuntimeError):
    """Training is no longer worth continuing; starting it again would end the same way."""

    exit_code = ExitCode.HEALTH


class StoppedBySignal(RuntimeError):
    """A signal asked the run to stop and everything it needs to go on has been saved."""

    exit_code = ExitCode.SIGNAL


class PeerLost(RuntimeError):
    """Another process of the run is gone; what was last saved can be continued."""

    exit_code = ExitCode.PEER_LOST


REASONS = (UserError, HealthError, StoppedBySignal, PeerLost)
"""What a command ends with in one line instead of a traceback."""

OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "_ALLOC_FAILED",
    "Unable to find a valid cuDNN algorithm",
)
"""What torch and its libraries say when memory has run out."""


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory ran out: torch says so, or one of its libraries."""
    theirs = isinstance(error, RuntimeError) and not isinstance(error, REASONS)
    return theirs and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


@contextmanager
def out_of_memory_as_user_error() -> Iterator[None]:
    """A UserError for a device's memory that runs out inside."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"out of memory ({one_line(error).split('. ')[0]}); make batches smaller "
            "(--num_concat_batches, --max_tokens, --batch_size) or, where a recording is heard "
            "whole, cut it"
        ) from None


EXIT_FILE = "last_exit.json"
"""In a run's output folder: why it ended before its last update."""

RECORD_VARIABLE = "EXIT_RECORD"
"""Names the file through which common/runtime/launcher.py learns why its processes ended."""


def record_exit(path: str | Path, error: Exception) -> None:
    """Write code and reason to `path`, whole, unless another process was first.

    Needed because torchrun turns a worker's exit code into 1.  A folder that cannot be written
    stays without.
    """
    path = Path(path)
    record = {"code": int(getattr(error, "exit_code", 1)), "reason": one_line(error)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        temporary.write_text(json.dumps(record), encoding="utf-8")
        with suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()


def one_line(error: object) -> str:
    return " ".join(str(error).split())


def _recorded() -> int | None:
    """The exit code of the run that the launcher restarts, if its reason would recur."""
    record = os.environ.get(RECORD_VARIABLE)
    if not record:
        return None
    with suppress(FileNotFoundError):  # none, or another process of the restart removed it
        code = json.loads(Path(record).read_text(encoding="utf-8"))["code"]
        if code != ExitCode.PEER_LOST:
            return code
        os.unlink(record)
    return None


def report_error(error: Exception) -> None:
    """Say why this process ends, or leave that to the launcher, once for all its processes."""
    if record := os.environ.get(RECORD_VARIABLE):
        record_exit(record, error)
    else:
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)


def exit_process(error: BaseException) -> NoReturn:
    """End this process with the code of an error that was reported, whatever its threads do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)))


def list_failures(failures: Sequence[str]) -> ExitCode:
    """Print what failed, a line each; the exit code that says so."""
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return ExitCode.SOME_FAILED if failures else ExitCode.DONE


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave with its exit code.

    `main` returns an exit code or None for done.  An error from the table above is printed as
    one line, and its code is the exit code; anything else is a defect of ours and keeps its
    traceback.
    """
    if (code := _recorded()) is not None:
        sys.exit(code)
    try:
        with logs_as_notices(), out_of_memory_as_user_error():
            code = main()
    except REASONS as error:
        report_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        code = 130
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        sys.stderr.close()
        code = 141
    sys.exit(int(code or ExitCode.DONE))
