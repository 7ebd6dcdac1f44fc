"""Recordings that a command gives: the pipes in a wav.scp, which run only with --allow_pipes."""

import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

from utils.corpora.containers.tar import LARGEST
from wav2vec2.cli.errors import UserError, one_line

KIND = "command"
SECONDS = 300
"""Time for one command."""
_GUARD = 'cat; kill -s KILL -- "-$1"'
"""Ends all that a command started as soon as this process closes its input, or ends."""


def read_output(_: Path, command: str) -> bytes:
    """What a command writes to its standard output.

    `sh` runs it in the current folder, as Kaldi does: a line of wav.scp is a pipeline of the shell.
    UserError with the last line of its messages if it fails or gives nothing, or after SECONDS.
    Nothing that it started lives on, also if this process is interrupted or killed.
    """
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,
        )
        guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdout and guard.stdin
        late = threading.Event()
        timer = threading.Timer(SECONDS, lambda: (late.set(), guard.stdin.close()))
        timer.start()
        try:
            content = process.stdout.read(LARGEST + 1)
            code = process.wait() if len(content) <= LARGEST else 0
        finally:
            timer.cancel()
            guard.stdin.close()
            guard.wait()
            process.stdout.close()
            process.wait()
        if late.is_set():
            raise UserError(f"the command took more than {SECONDS} s: {one_line(command)}")
        if len(content) > LARGEST:
            raise UserError(f"the command gives more than {LARGEST} bytes: {one_line(command)}")
        if code or not content:
            what = f"the command failed (exit code {code})" if code else "the command gave nothing"
            raise UserError(f"{what}: {_last_line(messages) or one_line(command)}")
        return content


def _last_line(messages: IO[bytes]) -> str:
    size = messages.seek(0, 2)
    messages.seek(max(0, size - 4096))
    lines = messages.read().decode("utf-8", "backslashreplace").split("\n")
    return next((one_line(line) for line in reversed(lines) if line.strip()), "")
