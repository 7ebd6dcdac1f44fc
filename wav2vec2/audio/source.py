"""What recordings are called, and where they are read from: files, or pipes by way of a file."""

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wav2vec2.audio.zip_member import stem
from wav2vec2.cli.errors import UserError

_UNFIT = re.compile(r"[\s/\\\0]")
"""What an id has an underscore for."""

LONGEST_ID = 200
"""Bytes of an id at most; file names end at 255, and a suffix follows."""


def printable(name: str | Path) -> str:
    """A file name as text that can be written: bytes that are no UTF-8 become `\\xfc`."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a surrogate pair, as JSON may hold: the name of no file
        return str(name).encode("utf-8", "backslashreplace").decode()


def recording_key(path: Path, root: Path) -> str:
    """A path as a file stem: relative to `root` if it is below it, without its suffix."""
    text, above = str(path), f"{root}/"
    if root.name and text.startswith(above):  # as pathlib, which takes ten times as long
        text = text[len(above) :]
    elif path.is_relative_to(root):
        text = str(path.relative_to(root))
    folder, slash, last = text.rpartition("/")
    if ".zip:" in text or last.startswith(".") or last.endswith("."):
        last = stem(text)
    elif "." in last:
        last = last[: last.rindex(".")]
    name = folder + slash + last or "."
    name = _UNFIT.sub("_", printable(name).lstrip("/"))
    if len(name.encode()) > LONGEST_ID:
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        name = name.encode()[-(LONGEST_ID - 17) :].decode("utf-8", "ignore") + "_" + digest
    return name


@contextmanager
def stored(stream: BinaryIO, name: str, suffix: str = "") -> Iterator[str]:
    """The path of a temporary file with all that `stream` gives: decoders need to seek in it."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        try:
            shutil.copyfileobj(stream, file)
            file.flush()
        except OSError as error:
            raise UserError(f"{name}: cannot be stored ({error})") from None
        yield file.name


@contextmanager
def seekable(path: str, name: str) -> Iterator[str]:
    """`path`, or if it is a pipe (named, or of `<(...)`) the path of a copy of what it gives.

    UserError, with `name`, for a device.  A file that does not exist is left to the reader.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        mode = stat.S_IFREG
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise UserError(f"{name}: is a device, not a recording; name a file")
    if not stat.S_ISFIFO(mode):
        yield path
        return
    try:
        pipe = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{name}: cannot be opened ({error.strerror})") from None
    with pipe, stored(pipe, name, Path(path).suffix) as copy:
        yield copy


def is_regular(path: str | Path) -> bool:
    """Whether `path` is neither a pipe nor a device nor a folder; true if it does not exist."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return True
