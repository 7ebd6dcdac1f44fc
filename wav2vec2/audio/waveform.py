"""A recording of any length: its samples on disk, its mean and variance known."""

import tempfile
from collections.abc import Iterable
from types import TracebackType

import numpy as np

from wav2vec2.audio.decode import NORMALIZE_EPS, normalize
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError

IN_MEMORY = 8 * 2**20
"""Bytes (131 seconds) up to which a waveform stays in memory."""

_ITEM = np.dtype(np.float32).itemsize


class Waveform:
    """16 kHz mono float32, read from blocks once and from then on by position.

    A long one lies in an unnamed temporary file (in TMPDIR, 230 MB an hour), which is gone with
    the process however that ends.  Read, not mapped: mapped pages count as the process' memory.
    """

    def __init__(self, blocks: Iterable[np.ndarray]):
        """`blocks`: float32 `[samples]` each.  UserError if the disk is full."""
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self.samples, self.mean, squares = 0, 0.0, 0.0
        for block in blocks:
            if len(block) == 0:
                continue
            # Chan, Golub, LeVeque (1979): sums of squares about the mean, joined exactly.
            wide = block.astype(np.float64)
            total = self.samples + len(block)
            difference = wide.mean() - self.mean
            squares += wide.var() * len(block)
            squares += difference**2 * self.samples * len(block) / total
            self.mean += difference * len(block) / total
            self.samples = total
            try:
                self._file.write(block.tobytes())
            except OSError as error:
                raise UserError(
                    f"{tempfile.gettempdir()}: cannot hold the decoded audio ({error.strerror}); "
                    "free 230 MB for each hour there, or name another folder with TMPDIR"
                ) from None
        self.variance = squares / max(self.samples, 1)

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def read(self, start: int, end: int, *, normalized: bool = False) -> np.ndarray:
        """Samples `start` to `end`; `normalized` by mean and variance of the whole recording."""
        self._file.seek(start * _ITEM)
        part = np.frombuffer(self._file.read((end - start) * _ITEM), dtype=np.float32)
        if not normalized:
            return part.copy()  # torch refuses what cannot be written
        if len(part) == self.samples:
            return normalize(part)
        wide = part.astype(np.float64)
        return ((wide - self.mean) / np.sqrt(self.variance + NORMALIZE_EPS)).astype(np.float32)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Waveform":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
