"""The samples of a recording of any length, on disk if it is long, with mean and variance."""

import tempfile
from collections.abc import Iterable

import numpy as np

from wav2vec2.audio.decode import NORMALIZE_EPS, normalize
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError

IN_MEMORY = 8 * 2**20
"""Bytes (131 seconds) up to which a waveform stays in memory."""

_ITEM = np.dtype(np.float32).itemsize


class Waveform:
    """16 kHz mono float32 samples, taken from blocks once and then read by position.

    A long recording is in an unnamed temporary file (in TMPDIR, 230 MB per hour), which the system
    removes when the process ends.  It is not mapped, because mapped pages count as memory.
    """

    def __init__(self, blocks: Iterable[np.ndarray]):
        """`blocks`: float32 `[samples]` each.  UserError if the disk is full."""
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self.samples, self.mean, squares = 0, 0.0, 0.0
        self.peak = 0.0
        """Largest magnitude of a sample."""
        for block in blocks:
            if len(block) == 0:
                continue
            # Chan, Golub, LeVeque (1979): sums of squares about the mean, combined exactly.
            wide = block.astype(np.float64)
            total = self.samples + len(block)
            difference = wide.mean() - self.mean
            squares += wide.var() * len(block)
            squares += difference**2 * self.samples * len(block) / total
            self.mean += difference * len(block) / total
            self.samples = total
            self.peak = max(self.peak, float(abs(block).max()))
            try:
                self._file.write(block.tobytes())
            except OSError as error:
                raise UserError(
                    f"{tempfile.gettempdir()}: no space for the decoded audio ({error.strerror}); "
                    "free 230 MB per hour of audio there, or set TMPDIR to another folder"
                ) from None
        self.variance = squares / max(self.samples, 1)

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def read(
        self, start: int, end: int, *, normalized: bool = False, eps: float = NORMALIZE_EPS
    ) -> np.ndarray:
        """Samples `start` to `end`; `normalized` by mean and variance of the whole recording, to
        which `eps` is added."""
        self._file.seek(start * _ITEM)
        part = np.frombuffer(self._file.read((end - start) * _ITEM), dtype=np.float32)
        if not normalized:
            return part.copy()  # torch warns of arrays that are read-only
        if len(part) == self.samples:
            return normalize(part, eps)
        wide = part.astype(np.float64)
        return ((wide - self.mean) / np.sqrt(self.variance + eps)).astype(np.float32)

    def close(self) -> None:
        """Free the memory or disk space."""
        self._file.close()
