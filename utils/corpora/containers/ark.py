"""Kaldi's and ESPnet's archives of recordings, one after the other: the audio file at an offset.

kaldiio reads these too, but it unpickles what an archive asks it to, and runs commands.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from utils.corpora.containers.tar import read_range
from wav2vec2.cli.errors import UserError

_OTHER = {b"\0B": "features", b"NPY": "an array without a rate", b"PKL": "a pickle"}
"""How what is no recording begins."""


def read_ark(path: Path, place: str) -> bytes:
    """The audio file at the byte `place` of an archive: WAV, FLAC, or any behind `AUDIO`.

    UserError if there is none, or if the archive ends before it does.
    """
    with open(path, "rb") as file:
        file.seek(int(place))
        length = _length(file, f"{path}:{place}")
        return read_range(path, f"{file.tell()}:{length}")


def _length(file: BinaryIO, name: str) -> int:
    """Bytes of the audio file that begins here, or behind its length; moves to its beginning."""
    start = file.tell()
    head = file.read(8)
    if head[:5] == b"AUDIO":
        file.seek(start + 6)
        return int.from_bytes(file.read(head[5] if len(head) > 5 else 0), "little")
    file.seek(start)
    if head[:4] == b"RIFF" and len(head) == 8:
        return 8 + struct.unpack("<I", head[4:])[0]
    if head[:4] == b"fLaC":
        return min(_longest_flac(file.read(26)[-8:]), file.seek(0, 2) - file.seek(start))
    what = next((what for begin, what in _OTHER.items() if head.startswith(begin)), "no recording")
    raise UserError(f"{name}: holds {what}, not audio; name the ark that wav.scp had")


def _longest_flac(fields: bytes) -> int:
    """Bytes of a FLAC file at most, by the channels, bits and samples of its header."""
    value = int.from_bytes(fields, "big")
    channels, bits, samples = (value >> 41 & 7) + 1, (value >> 36 & 31) + 1, value & (1 << 36) - 1
    return samples * channels * bits // 8 * 9 // 8 + (1 << 20)
