"""Packed audio: the utterances of a filelist in a few large files that need no decoding.

A shard is a header of 64 bytes, then the samples of one utterance after another: 16 kHz, mono,
little-endian.  They are int16 (value / 32768), or float32 if int16 would change a sample.  A
filelist addresses an utterance in it as `train-00000.pack:<first sample>:<samples>/<file name>`.

Shards are read at offsets, not mapped into memory.  One request reads a whole utterance, also from
a remote file system.  A failed read raises an error; on mapped memory it would kill the process.
"""

import functools
import os
import re
import struct
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wav2vec2.audio.decode import BLOCK, read_utterance
from wav2vec2.cli.errors import UserError

INT16, FLOAT32 = np.dtype("<i2"), np.dtype("<f4")
SCALE = np.float32(1 / 32768)
"""libsndfile's factor for 16-bit samples: a power of two, so nothing is rounded."""

_HEADER = struct.Struct("<8sI4sQ32s8x")
_MAGIC, _VERSION = b"PCMSHARD", 1

_ADDRESS = re.compile(r"(?P<shard>.+\.pack):(?P<first>\d+):(?P<samples>\d+)/[^/]+")

_OPEN_SHARDS = 256
"""Limit of open shards: a process may usually open 1,024 files and needs some for other things."""


@dataclass(frozen=True)
class Header:
    """The first bytes of a shard."""

    dtype: np.dtype
    """INT16 or FLOAT32."""
    samples: int
    """Samples of all its utterances together."""
    origin: bytes
    """32 bytes that identify what was packed."""

    @property
    def bytes(self) -> int:
        """Size of the whole shard."""
        return _HEADER.size + self.samples * self.dtype.itemsize

    def pack(self) -> bytes:
        """The header as bytes."""
        return _HEADER.pack(_MAGIC, _VERSION, self.dtype.str.encode(), self.samples, self.origin)


def read_header(path: str | Path, file: int) -> Header:
    """Read the header of the shard that is open as descriptor `file`.

    UserError, naming `path`, if it is not a shard, of another version, or of the wrong length.
    """
    content = os.pread(file, _HEADER.size, 0)
    magic, version, name, samples, origin = _HEADER.unpack(content.ljust(_HEADER.size, b"\0"))
    name = name.rstrip(b"\0").decode("ascii", "replace")
    if magic != _MAGIC or version == _VERSION and name not in (INT16.str, FLOAT32.str):
        raise UserError(f"{path}: not a shard of packed audio; copy it again, or pack it again")
    if version != _VERSION:
        raise UserError(
            f"{path}: a shard of version {version}, this program reads version {_VERSION}; pack it "
            "again with utils/data/pack_dataset.py"
        )
    header = Header(np.dtype(name), samples, origin)
    size = os.fstat(file).st_size
    if size != header.bytes:
        raise UserError(
            f"{path}: {size} bytes where its header says {header.bytes}; it is truncated or was "
            "changed: copy it again, or pack it again"
        )
    return header


def address(shard: str, first: int, samples: int, name: str) -> str:
    """The path in a filelist of `samples` samples of a shard; `name` is the audio file's."""
    return f"{shard}:{first}:{samples}/{name}"


class Shard:
    """An open shard; any number of processes may read in it."""

    def __init__(self, path: str):
        self.path = path
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self.header = read_header(path, self._file)

    def read(self, first: int, count: int) -> np.ndarray:
        """`count` samples from `first` on, float32 `[count]`, in [-1, 1) if packed as int16."""
        stored = np.empty(count, self.header.dtype)
        left = memoryview(stored).cast("B")
        position = _HEADER.size + first * stored.itemsize
        while left:  # a read may return a part
            done = os.preadv(self._file, [left], position)
            if not done:
                raise UserError(f"{self.path}: became shorter since it was opened; copy it again")
            left, position = left[done:], position + done
        if self.header.dtype == FLOAT32:
            return stored.astype(np.float32, copy=False)
        return np.multiply(stored, SCALE, dtype=np.float32)


_opened = functools.lru_cache(_OPEN_SHARDS)(Shard)
"""Each process opens a shard once.  A forked process inherits its parent's open shards."""


def read_audio(path: str, samples: int, first: int = 0, count: int | None = None) -> np.ndarray:
    """Read the audio file or packed utterance at a filelist's `path`: float32 `[count]`.

    `samples`: its whole length, as listed; `first`, `count`: the part to read, default: all.
    UserError, naming the file, if it cannot be read or is not as listed.
    """
    count = samples - first if count is None else count
    packed = _ADDRESS.fullmatch(path)
    if not packed:
        return read_utterance(path, samples)[first : first + count]
    try:
        shard = _opened(packed["shard"])
        start, end = int(packed["first"]), int(packed["first"]) + samples
        if samples != int(packed["samples"]) or not samples or end > shard.header.samples:
            raise UserError(
                f"{path}: the shard has {shard.header.samples} samples, and {samples} are listed; "
                "filelist and shard do not belong together: copy both again"
            )
        return shard.read(start + first, count)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check that the packed data set is "
            "complete and mounted"
        ) from None


def is_packed(path: str) -> bool:
    """Whether `path` is that of a packed utterance."""
    return bool(_ADDRESS.fullmatch(path))


def stream_packed(path: str) -> Iterator[np.ndarray]:
    """A packed utterance as blocks `[samples]`, as from stream_recording."""
    samples = int(_ADDRESS.fullmatch(path)["samples"])
    for first in range(0, samples, BLOCK):
        yield read_audio(path, samples, first, min(BLOCK, samples - first))
