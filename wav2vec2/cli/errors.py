"""Errors that a user sees in one line, and the exit codes of all commands.

0  done
1  done, but some inputs failed (they are listed)
2  a user's mistake: one line says which file, line or flag, and how to fix it
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
from typing import Any, NoReturn, TextIO, TypeVar

from wav2vec2.cli.console import logs_as_notices

Result = TypeVar("Result")


class ExitCode(IntEnum):
    """Exit status of a command; the launch scripts rely on the numbers."""

    DONE = 0
    SOME_FAILED = 1
    USER_ERROR = 2
    HEALTH = 3
    SIGNAL = 4
    PEER_LOST = 5


class UserError(ValueError):
    """A user's mistake; its one-line message says where it is and how to fix it."""

    exit_code = ExitCode.USER_ERROR


class HealthError(RuntimeError):
    """Training collapsed or diverged; starting it again would end the same way."""

    exit_code = ExitCode.HEALTH


class StoppedBySignal(RuntimeError):
    """A signal asked the run to stop; everything that a resume needs has been saved."""

    exit_code = ExitCode.SIGNAL


class PeerLost(RuntimeError):
    """Another process of the run is gone; the run can resume from its last checkpoint."""

    exit_code = ExitCode.PEER_LOST


REASONS = (UserError, HealthError, StoppedBySignal, PeerLost)
"""Errors with which a command ends in one line instead of a traceback."""

OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "_ALLOC_FAILED",
    "Unable to find a valid cuDNN algorithm",
)
"""Parts of the messages of torch and its libraries when memory has run out."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error`, of torch or one of its libraries, means that memory ran out."""
    theirs = isinstance(error, RuntimeError) and not isinstance(error, REASONS)
    return theirs and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


@contextmanager
def out_of_memory_as_user_error() -> Iterator[None]:
    """Raise a UserError if a device's memory runs out inside."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"out of memory ({one_line(error).split('. ')[0]}); make batches smaller "
            "(--num_concat_batches, --max_tokens, --batch_size) or, if a recording is processed as "
            "a whole, split it"
        ) from None


EXIT_FILE = "last_exit.json"
"""File in a run's output folder that says why the run ended before its last update."""

RECORD_VARIABLE = "EXIT_RECORD"
"""Environment variable: the file from which common/runtime/launcher.py learns why its processes
ended."""


def record_exit(path: str | Path, error: Exception) -> None:
    """Write exit code and reason to `path`, whole, unless another process was first.

    Needed because torchrun turns a worker's exit code into 1.  Nothing is written if the folder
    cannot be written.
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
    """The text of `error`, its line breaks and runs of spaces replaced by single spaces."""
    return " ".join(str(error).split())


def _recorded() -> int | None:
    """The exit code of a run that the launcher restarts although its reason would recur."""
    record = os.environ.get(RECORD_VARIABLE)
    if not record:
        return None
    with suppress(FileNotFoundError):  # there is none, or another process removed it
        code = json.loads(Path(record).read_text(encoding="utf-8"))["code"]
        if code != ExitCode.PEER_LOST:
            return code
        os.unlink(record)
    return None


def report_error(error: Exception) -> None:
    """Print why this process ends; under the launcher record it, which prints it once for all."""
    if record := os.environ.get(RECORD_VARIABLE):
        record_exit(record, error)
    else:
        with suppress(OSError):  # the disk under standard error may be full
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)


def exit_process(error: BaseException) -> NoReturn:
    """End this process with the exit code of a reported error, without waiting for its threads."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(int(getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)))


class Failures(list[str]):
    """Error lines of the inputs that a command had to skip."""

    def attempt(self, function: Callable[..., Result], *arguments: Any) -> Result | None:
        """`function(*arguments)`; for a UserError in it None, and its line is added."""
        try:
            return function(*arguments)
        except UserError as error:
            self.append(str(error))
            return None


def list_failures(failures: Sequence[str]) -> ExitCode:
    """Print one error line per failure; returns the exit code of the command."""
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return ExitCode.SOME_FAILED if failures else ExitCode.DONE


class OutputClosed(BrokenPipeError):
    """Whatever reads standard output or standard error has ended, such as `| head`."""


class _CheckedStream:
    """Standard output or standard error; a UserError if it cannot take what is written."""

    def __init__(self, stream: TextIO, name: str):
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._attempt(self._stream.write, text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return function(*arguments)
        except UnicodeEncodeError as error:
            raise UserError(
                f"{self._name}: its encoding {error.encoding} lacks {error.object[error.start]!a}; "
                "set PYTHONIOENCODING=utf-8"
            ) from None
        except BrokenPipeError as error:
            raise OutputClosed(*error.args) from None
        except OSError as error:
            with suppress(OSError, ValueError):  # or Python would try again when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise UserError(
                f"{self._name}: cannot be written ({error.strerror}); make space, or send it "
                "elsewhere"
            ) from None


@contextmanager
def checked_output() -> Iterator[None]:
    """Inside, standard output and standard error raise a UserError for a full disk, and standard
    output for a letter that its encoding lacks."""
    output, errors = sys.stdout, sys.stderr
    with suppress(AttributeError):  # a file name of bytes that are no UTF-8 is printed as it is
        output.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    sys.stdout = _CheckedStream(output, "standard output")  # type: ignore[assignment]
    sys.stderr = _CheckedStream(errors, "standard error")  # type: ignore[assignment]
    try:
        try:
            yield
        except SystemExit:  # argparse has printed its help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = output, errors


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave with its exit code.

    `main` returns an exit code, or None for done.  One of REASONS is printed as one line and gives
    the exit code; any other exception is a bug and keeps its traceback.
    """
    if (code := _recorded()) is not None:
        sys.exit(code)
    try:
        with checked_output(), logs_as_notices(), out_of_memory_as_user_error():
            code = main()
    except REASONS as error:
        report_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        code = 130
    except OutputClosed:
        sys.stderr.close()
        code = 141
    sys.exit(int(code or ExitCode.DONE))
