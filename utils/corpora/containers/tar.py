"""Tar archives, plain or compressed: which files they hold, and the bytes of one.

Nothing is extracted: a member is a range of bytes.  Links and devices are ignored.
"""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from wav2vec2.cli.errors import UserError

LARGEST = 1 << 30
"""Bytes of a recording at most: a damaged or hostile header may declare any number."""

_COMPRESSED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))
_DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)


def first_bytes(path: Path) -> bytes:
    """How a file starts.  OSError if it cannot be opened, UserError if another stands for it."""
    with open(path, "rb") as file:
        start = file.read(24)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: stands for a file that Git LFS did not fetch; run `git lfs pull`")
    return start


def open_plain(path: Path) -> BinaryIO:
    """A file's content, decompressed if it is compressed; errors as of first_bytes."""
    start = first_bytes(path)
    return next((opened for magic, opened in _COMPRESSED if start.startswith(magic)), open)(
        path, "rb"
    )


@lru_cache(maxsize=1)
def _kept_open(path: Path, changed: int) -> BinaryIO:
    """The archive that is being read: what is compressed is read forward, not from its start."""
    return open_plain(path)


def read_range(path: Path, place: str) -> bytes:
    """The bytes of a place `<offset>:<length>` of an archive, counted after decompression."""
    offset, length = map(int, place.split(":"))
    if length > LARGEST:
        raise UserError(f"{path}: declares a recording of {length} bytes; it is damaged")
    try:
        file = _kept_open(path, os.stat(path).st_mtime_ns)
        file.seek(offset)
        content = bytearray()  # grows as bytes arrive, whatever the header declares
        while part := file.read(min(1 << 20, length - len(content))):
            content += part
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged or truncated ({error}); fetch it again") from None
    if len(content) < length:
        raise UserError(f"{path}: ends before this recording does; fetch it again")
    return bytes(content)


MOST_TEXT = 1 << 20
"""Bytes of a header or a transcript at most."""
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Entry(NamedTuple):
    """A regular file of an archive."""

    name: str
    place: str
    """What `read_range` takes."""
    text: bytes
    """Its content, if that was asked for."""


class _Forward:
    """A file for tarfile: no header moves it backwards, or makes it read more than MOST_TEXT."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.reached = file, 0
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_TEXT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.reached = self.tell()
        return self.file.read(size)

    def seek(self, offset: int) -> int:
        if offset < self.reached:
            raise tarfile.ReadError("a header points backwards")
        return self.file.seek(offset)


def list_files(path: Path, with_text: Callable[[str], bool]) -> Iterator[Entry | str]:
    """The regular files of an archive, in its order; those `with_text` accepts have their content.

    Last comes a text if the archive is damaged: why nothing after the last file could be read.
    Errors as of open_plain.
    """
    with open_plain(path) as file:
        try:
            with tarfile.open(fileobj=_Forward(file), mode="r:") as archive:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # else every header would stay in memory
                    if not info.isreg() or info.sparse is not None:
                        continue
                    text = b""
                    if with_text(info.name) and info.size <= MOST_TEXT:
                        file.seek(info.offset_data)
                        text = file.read(info.size)
                    yield Entry(info.name, f"{info.offset_data}:{info.size}", text)
                file.seek(archive.offset)
                if file.read(512).strip(b"\0"):
                    yield f"no tar header at byte {archive.offset}"
        except (tarfile.TarError, ValueError, ArithmeticError, *_DAMAGE) as error:
            yield f"damaged or truncated ({error})"


def expand(pattern: str) -> list[str]:
    """The names of a pattern such as shard-{000..011}.tar, {a,b}.tar or audio__OP_0..3_CL_.tar.

    UserError if it stands for too many.
    """
    pattern = re.sub(r"_OP_(\d+\.\.\d+)_CL_", r"{\1}", pattern)
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not found:
        return [pattern]
    if found[3] is None:
        first, last = int(found[1]), int(found[2])
        if last - first >= 1_000_000:
            raise UserError(f"{pattern}: stands for more than a million files")
        choices = [f"{number:0{len(found[1])}d}" for number in range(first, last + 1)]
    else:
        choices = found[3].split(",")
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [start + choice + rest for choice in choices for rest in expand(end)]
