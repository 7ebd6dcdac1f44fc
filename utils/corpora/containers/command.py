"""Recordings that a command gives: the pipes in a wav.scp, which run only with --allow_pipes."""

import os
import select
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from common.runtime.signals import obey_signals
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
        content, closed, late = bytearray(), False, False
        end = time.monotonic() + SECONDS
        try:
            while not (late or (closed and process.poll() is not None) or len(content) > LARGEST):
                obey_signals()
                late = time.monotonic() > end
                if closed:
                    time.sleep(0.02)
                elif select.select([process.stdout], [], [], 0.1)[0]:
                    part = os.read(process.stdout.fileno(), 2**20)
                    content += part
                    closed = not part
        finally:
            guard.stdin.close()
            guard.wait()
            process.stdout.close()
            code = process.wait()
        if late:
            raise UserError(f"the command took more than {SECONDS} s: {one_line(command)}")
        if len(content) > LARGEST:
            raise UserError(f"the command gives more than {LARGEST} bytes: {one_line(command)}")
        if code or not content:
            what = f"the command failed (exit code {code})" if code else "the command gave nothing"
            raise UserError(f"{what}: {_last_line(messages) or one_line(command)}")
        return bytes(content)


def _last_line(messages: IO[bytes]) -> str:
    size = messages.seek(0, 2)
    messages.seek(max(0, size - 4096))
    lines = messages.read().decode("utf-8", "backslashreplace").split("\n")
    return next((one_line(line) for line in reversed(lines) if line.strip()), "")
