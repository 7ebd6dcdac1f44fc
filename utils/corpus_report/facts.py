"""Measurements of one recording, made while it is converted: level, silence, bandwidth, source."""

import os
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wav2vec2.audio.decode import HEADERLESS
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.stderr import silent_stderr

FRAME = 512
"""Samples of a frame, 32 ms."""
MOST_FRAMES = 64
"""Frames of a block whose spectrum is measured, spread over it."""
LOWEST_LEVEL = -120.0
"""dB of full scale that stands for digital silence."""
QUIET = 30.0
"""dB below the loud frames (their 95th percentile) from which a frame counts as silence."""
FAINT = -75.0
"""dB of full scale below which any frame counts as silence."""
BAND = 250.0
"""Hz of a band of the spectrum."""
EDGE_DROP = 25.0
"""dB by which the spectrum must fall at its end: full-band speech falls by at most about 20 dB, and
speech sampled at 8 kHz by 27 to 80 dB."""

_WINDOW = np.hanning(FRAME).astype(np.float32)
_LEVELS = 121  # of 1 dB
_BANDS = int(SAMPLE_RATE / 2 / BAND)
_LOWEST = 13  # vowels and tones alone end lower, at any sample rate


class Facts(NamedTuple):
    """Measurements of the 16 kHz samples of one utterance."""

    level: float
    """Root mean square about the mean, in dB of full scale."""
    peak: float
    """Largest magnitude, in dB of full scale."""
    silence: float
    """Share of the frames that are QUIET or FAINT."""
    bandwidth: float | None
    """Hz at which the spectrum ends, 8000 if it has no end; None if nothing is loud enough."""


class Origin(NamedTuple):
    """What the source file is."""

    format: str
    """By the name of libsndfile or FFmpeg: WAV, FLAC, g722."""
    encoding: str
    rate: int
    """Hz."""
    channels: int


UNKNOWN = Origin("unknown", "", 0, 0)


def decibels(power: float) -> float:
    """Power, 1 at full scale, in dB; never below LOWEST_LEVEL."""
    return max(10 * float(np.log10(max(power, 1e-30))), LOWEST_LEVEL)


class Measurement:
    """The facts of one utterance, measured block by block in memory of a fixed size."""

    def __init__(self) -> None:
        self.samples = 0
        self.sum = 0.0
        self.squares = 0.0
        self.peak = 0.0
        self.loudness = np.zeros(_LEVELS, int)
        """Frames of each level, in dB above LOWEST_LEVEL."""
        self.bands = np.zeros(_BANDS)
        """Sums of the power of each band in some loud frames."""

    def add(self, samples: np.ndarray) -> None:
        """Measure the next `[samples]`, of any number; all blocks but the last: whole frames."""
        self.samples += len(samples)
        self.sum += float(samples.mean()) * len(samples)
        self.squares += float(np.dot(samples, samples))
        self.peak = max(self.peak, float(samples.max()), -float(samples.min()))
        frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
        if not len(frames):
            return
        power = np.einsum("ij,ij->i", frames, frames) / FRAME - np.square(frames.mean(axis=1))
        level = (10 * np.log10(np.maximum(power, 1e-12)) - LOWEST_LEVEL).astype(int)
        counts = np.bincount(level.clip(0, _LEVELS - 1), minlength=_LEVELS)
        self.loudness += counts
        loud = np.flatnonzero(level >= _loud_from(counts))
        if len(loud) > MOST_FRAMES:
            loud = loud[np.linspace(0, len(loud) - 1, MOST_FRAMES).astype(int)]
        spectrum = np.fft.rfft(frames[loud] * _WINDOW)[:, : FRAME // 2]
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        self.bands += power.sum(axis=0).reshape(_BANDS, -1).sum(axis=1)

    def facts(self) -> Facts:
        """What was measured of all blocks."""
        count = max(self.samples, 1)
        level = decibels(self.squares / count - (self.sum / count) ** 2)
        frames = int(self.loudness.sum())
        quiet = int(self.loudness[: _loud_from(self.loudness)].sum())
        found = bandwidth(self.bands) if quiet < frames else None
        silence = quiet / max(frames, 1)
        return Facts(round(level, 1), round(decibels(self.peak**2), 1), round(silence, 3), found)


def _loud_from(counts: np.ndarray) -> int:
    """The level, in dB above LOWEST_LEVEL, from which a frame is neither QUIET nor FAINT."""
    loudest = int(np.searchsorted(np.cumsum(counts), 0.95 * counts.sum()))
    return max(loudest - int(QUIET), int(FAINT - LOWEST_LEVEL))


def bandwidth(bands: np.ndarray) -> float:
    """Hz at which a spectrum ends, to 250 Hz, from the power of each band `[32]`.

    That is where the mean level of 1 kHz is at least EDGE_DROP above all that follows half a kHz
    later.  The end of audio sampled at 8 kHz is about 4000, whatever its rate is now; a codec's or
    a filter's low-pass has an end, too.
    """
    level = 10 * np.log10(np.maximum(bands, 1e-30))
    starts = np.arange(_LOWEST, _BANDS - 1)  # of what follows; 4 bands before, and 2 between
    above = np.maximum.accumulate(level[::-1])[::-1][starts]
    sums = np.concatenate([[0.0], np.cumsum(level)])
    below = (sums[starts - 2] - sums[starts - 6]) / 4
    best = int(np.argmax(below - above))
    if below[best] - above[best] < EDGE_DROP:
        return SAMPLE_RATE / 2
    middle = (below[best] + above[best]) / 2
    return float(BAND * (1 + np.flatnonzero(level > middle)[-1]))


def origin_of(source: Path | bytes) -> Origin:
    """Format, encoding, rate and channels of a file, named by its path or given as its bytes.

    UNKNOWN if its header is unreadable.
    """
    import soundfile

    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    try:
        if suffix not in HEADERLESS and suffix != ".raw":
            opened = BytesIO(source) if isinstance(source, bytes) else os.fsencode(source)
            with silent_stderr(), soundfile.SoundFile(opened) as file:
                return Origin(file.format, file.subtype, file.samplerate, file.channels)
    except (soundfile.LibsndfileError, OSError, ValueError):
        pass
    return _origin_by_av(source, HEADERLESS.get(suffix))


def _origin_by_av(source: Path | bytes, headerless: str | None) -> Origin:
    try:
        import av
    except ImportError:
        return UNKNOWN
    opened = BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    try:
        with av.open(opened, format=headerless) as container:
            codec = container.streams.audio[0].codec_context
            return Origin(container.format.name, codec.name, codec.sample_rate, codec.channels)
    except (av.FFmpegError, OSError, ValueError, IndexError, AttributeError):
        return UNKNOWN
