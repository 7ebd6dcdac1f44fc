"""How many bytes of audio a file's header declares, and how many the file has.

libsndfile does not compare the two, so it reads a truncated file as if it were whole.
"""

import math
import os
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

_CHUNKED = {b"RIFF": ("<", b"data"), b"RF64": ("<", b"data"), b"BW64": ("<", b"data")}
_CHUNKED |= {b"RIFX": (">", b"data"), b"FORM": (">", b"SSND")}
"""WAV and AIFF: byte order, and the chunk that holds the audio."""

_LARGEST = (2**31, 2**32, 2**64)
"""Lengths that mean "unknown".  A program that writes to a pipe cannot correct the header later: it
declares 0 bytes, or a number near one of these (FFmpeg 2**32 - 1, arecord 2**31)."""
_NEAR = 4096
"""Bytes around _LARGEST that count as near; SoX declares 2**31 - 4096."""

_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
"""Sony's Wave64: the name of the chunk that holds the audio."""

_XING = re.compile(rb"Xing|Info")
_XING_PLACE = 48
"""Bytes of an MP3's first frame within which the header begins: after at most 38 bytes."""

_HEADER = 64
"""Bytes that may be missing from WAV and AIFF: some programs count the header as audio."""


@dataclass(frozen=True)
class Extent:
    """Bytes of audio."""

    declared: int | None
    """None: the header does not say."""
    held: int
    slack: int = 0
    """Bytes that may be missing."""

    @property
    def short(self) -> bool:
        """Whether the file has less audio than declared."""
        return self.declared is not None and self.held + self.slack < self.declared


def extent(file: BinaryIO) -> Extent:
    """The extent of a WAV, AIFF, W64, AU, NIST or MP3 file; `declared` is None for any other."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    slack = _HEADER
    if head[:4] in _CHUNKED:
        declared, begin = _audio_chunk(file, *_CHUNKED[head[:4]])
    elif head[:4] == b".snd":
        begin, declared = struct.unpack(">II", head[4:12].ljust(8, b"\0"))
    elif head[:4] == b"riff":
        declared, begin = _w64_chunk(file)
    elif head[:8] == b"NIST_1A\n":
        declared, begin = _nist_header(file)
    else:
        declared, begin = _mp3_stream(file, head)
        slack = declared // 100  # encoders differ in whether they count a frame or a tag
    unknown = declared == 0 or any(abs(declared - largest) <= _NEAR for largest in _LARGEST)
    return Extent(None if unknown else declared, size - begin, slack)


def _audio_chunk(file: BinaryIO, order: str, wanted: bytes) -> tuple[int, int]:
    """Declared bytes of the chunk `wanted`, and the position of its content; (0, 0) without one."""
    place, long = 12, 0
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack(f"{order}4sI", head)
        place += 8
        if name == wanted:
            return (long or length), place
        if name == b"ds64":  # RF64's sizes of eight bytes, for chunks too long for four
            _, long = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        elif not name.isascii() or not name.decode().isprintable():
            break
        place += length + length % 2
        file.seek(place)
    return 0, 0


def _w64_chunk(file: BinaryIO) -> tuple[int, int]:
    """Declared bytes of the audio in a Wave64 file, and their position; (0, 0) without any."""
    place = 40
    file.seek(place)
    while len(head := file.read(24)) == 24:
        name, length = struct.unpack("<16sQ", head)  # the length counts these 24 bytes
        if name == _W64_DATA:
            return max(length - 24, 0), place + 24
        if length < 24 or length > 2**62:
            break
        place += length + -length % 8
        file.seek(place)
    return 0, 0


def _nist_header(file: BinaryIO) -> tuple[int, int]:
    """Declared bytes of the audio in a NIST (SPHERE) file, and their position; (0, 0) if the
    header does not say."""
    file.seek(8)
    size = file.read(8).strip()
    if not size.isdigit():
        return 0, 0
    file.seek(0)
    header = file.read(min(int(size), 2**16))
    sizes = [
        re.search(name + rb" -\w+ (\d{1,12})\s", header)
        for name in (rb"sample_count", rb"channel_count", rb"sample_n_bytes")
    ]
    if not all(sizes):
        return 0, 0
    return math.prod(int(found[1]) for found in sizes if found), int(size)


def _mp3_stream(file: BinaryIO, head: bytes) -> tuple[int, int]:
    """Declared bytes of an MP3 whose first frame is a Xing header (Info at a constant bit rate),
    and the position of that frame; (0, 0) without such a frame."""
    begin = 0
    if head[:3] == b"ID3" and len(head) >= 10:  # its length is in four bytes of seven bits
        begin = 10 + sum(byte << 7 * n for n, byte in enumerate(reversed(head[6:10])))
    file.seek(begin)
    frame = file.read(_XING_PLACE + 16)
    header = _XING.search(frame, 2, _XING_PLACE)
    if not header or frame[0] != 0xFF or frame[1] < 0xE0:
        return 0, 0
    flags, _, declared = struct.unpack(">III", frame[header.start() + 4 :][:12].ljust(12, b"\0"))
    return (declared if flags & 3 == 3 else 0), begin  # both counts are there: frames, bytes
