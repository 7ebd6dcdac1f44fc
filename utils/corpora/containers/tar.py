"""Tar archives, plain or compressed: which files they hold, and the bytes of one.

Nothing is extracted: a member is a range of bytes.  Links and devices are ignored.
"""

import bz2
import gzip
import lzma
import os
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from wav2vec2.cli.errors import UserError

LARGEST = 1 << 30
"""Bytes of a recording at most: a damaged or hostile header may declare any number."""

_COMPRESSED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))


def open_plain(path: Path) -> BinaryIO:
    """A file's content, decompressed if it is compressed.  OSError if it cannot be opened."""
    with open(path, "rb") as file:
        start = file.read(6)
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
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: damaged or truncated ({error}); fetch it again") from None
    if len(content) < length:
        raise UserError(f"{path}: ends before this recording does; fetch it again")
    return bytes(content)
