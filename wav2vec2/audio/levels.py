"""How loud a recording is, and which of its channels, at which scale, the model gets."""

import math
from dataclasses import dataclass, field

import numpy as np

from wav2vec2.cli.errors import UserError

FULL_SCALE = 0.999
"""Magnitude from which a sample counts as clipped."""
CLIPPED_SHARE = 0.001
"""Share of clipped samples from which a recording counts as clipped."""
NEARLY_SILENT = -70.0
"""dB of full scale (root mean square) below which a recording counts as nearly silent."""
LARGEST_FLOAT = 32.0
"""Magnitude (30 dB above full scale) that no audio in floating point exceeds: what does holds
integers."""
INTEGER_SCALES = (2**15, 2**23, 2**31)
"""Full scale of 16-, 24- and 32-bit integers."""


_ROUNDED_FULL_SCALE = float(np.float32(FULL_SCALE))


def average_channels(block: np.ndarray) -> np.ndarray:
    """The average `[samples]` of the channels of float32 `[samples, channels]`."""
    if block.shape[1] == 2:  # bit for bit the mean, and ten times as fast
        return (block[:, 0] + block[:, 1]) * np.float32(0.5)
    return block.mean(axis=1)


@dataclass
class Levels:
    """Levels of each channel, and of their average, measured block by block."""

    samples: int = 0
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Lowest sample, as of all arrays here: one per channel, then that of the average if there is
    more than one channel."""
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    clipped: int = 0
    """Samples at full scale in any channel."""
    whole: bool = True
    """Whether all samples are whole numbers."""

    def add(self, block: np.ndarray) -> None:
        """Measure `[samples, channels]`."""
        if not len(block):
            return
        # One row per channel, each contiguous: numpy is many times as fast on these as on columns.
        rows = [np.ascontiguousarray(channel) for channel in block.T]
        if len(rows) > 1:
            rows.append(average_channels(block))
        low, high = (np.array([edge(row) for row in rows], float) for edge in (np.min, np.max))
        if not self.samples:
            self.low, self.high = low, high
            self.sums, self.squares = np.zeros(len(low)), np.zeros(len(low))
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        for index, row in enumerate(rows):
            wide = row.astype(np.float64)
            self.sums[index] += wide.sum()
            self.squares[index] += np.square(wide, out=wide).sum()
        if max(high.max(), -low.min()) >= _ROUNDED_FULL_SCALE:
            self.clipped += int((abs(block) >= FULL_SCALE).any(axis=1).sum())
        self.whole = self.whole and bool((block == np.rint(block)).all())
        self.samples += len(block)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return max(len(self.sums) - 1, 1)

    @property
    def peak(self) -> float:
        """Largest magnitude in any channel."""
        return float(np.maximum(-self.low, self.high).max(initial=0.0))

    def power(self) -> np.ndarray:
        """Mean square about the mean, of each channel and of the average."""
        count = max(self.samples, 1)
        return np.maximum(self.squares / count - np.square(self.sums / count), 0.0)

    def louder_channel(self) -> int | None:
        """The number, from 0, of the channel to take because the channels cancel each other.

        None if their average can be taken.  Channels that are alike, or independent of each other,
        give an average with at least the power of the loudest channel divided by the square of
        their number.  Less than a quarter of that, or 20 dB less than the channel, is too little.
        """
        if self.channels == 1:
            return None
        *powers, average = self.power()
        loudest = int(np.argmax(np.array(powers) >= 0.99 * max(powers)))  # the first of equals
        least = max(1 / (4 * self.channels**2), 0.01) * powers[loudest]
        return loudest if average < least else None

    def scale(self, name: str) -> float:
        """Factor that brings samples in floating point into [-1, 1]; 1 if they are.

        UserError, naming the recording, if they are in no known scale.
        """
        peak = self.peak
        if peak <= 1:
            return 1.0
        if peak <= LARGEST_FLOAT and not self.whole:
            return 1 / peak
        for full in INTEGER_SCALES:
            if peak <= full:
                return 1 / full
        raise UserError(
            f"{name}: samples up to {peak:.3g} in floating point, where 1 is full scale; convert "
            "it to wav with integers"
        )

    def notes(self, used: int, scale: float = 1.0) -> dict[str, str]:
        """Kind -> what is unusual about the channel `used` (-1: the average) after scaling."""
        low, high = self.low[used], self.high[used]
        if low == high:
            if low == 0:
                return {"silent": "every sample is 0"}
            return {"constant": f"every sample is {low * scale:.4g}"}
        found = {}
        power = float(self.power()[used]) * scale**2
        level = 10 * math.log10(power) if power > 0 else -math.inf
        if level < NEARLY_SILENT:
            found["nearly silent"] = f"{level:.0f} dB of full scale"
        share = self.clipped / self.samples
        if share > CLIPPED_SHARE and scale == 1:
            found["clipped"] = f"{100 * share:.1f} % of the samples are at full scale"
        return found


def scale_notes(levels: Levels, scale: float) -> dict[str, str]:
    """Kind -> what was done to samples in floating point beyond full scale."""
    if scale == 1:
        return {}
    peak = f"samples up to {levels.peak:.5g} in floating point"
    if 1 / scale in INTEGER_SCALES:
        bits = round(math.log2(1 / scale)) + 1
        return {"integers in floating point": f"{peak}: read as {bits}-bit integers"}
    return {"above full scale": f"{peak}: scaled down by {-20 * math.log10(scale):.1f} dB"}
