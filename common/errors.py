"""The user-facing errors and the exit codes, in one table.

0  done
1  done, but some inputs failed (they are listed)
2  a user's mistake: one line says which file, line or flag, and the way out
3  stopped by health: collapse, loss scale, or non-finite gradients
4  stopped by a signal after saving; the job can be queued again
5  a peer process was lost
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path


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


def record_exit(folder: str | Path, error: Exception) -> None:
    """Leave `last_exit.json` in `folder`: torchrun turns a worker's exit code into 1.

    The first process to fail writes it; a folder that cannot be written stays without.
    """
    record = {"code": int(getattr(error, "exit_code", 1)), "reason": str(error)}
    with suppress(OSError), open(Path(folder) / "last_exit.json", "x", encoding="utf-8") as file:
        json.dump(record, file)


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave with its exit code.

    `main` returns an exit code or None for done.  An error from the table above is printed as
    one line, and its code is the exit code; anything else is a defect of ours and keeps its
    traceback.
    """
    try:
        code = main()
    except (UserError, HealthError, StoppedBySignal) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        code = error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        code = 130
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        sys.stderr.close()
        code = 141
    sys.exit(int(code or ExitCode.DONE))
