"""Measurements of one recording, made while it is converted: level, silence, bandwidth, source."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wav2vec2.audio.decode import HEADERLESS
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.stderr import silent_stderr

FRAME = 512
"""Samples of a frame, 32 ms."""
MOST_FRAMES = 64
"""Frames of a recording whose spectrum is measured, spread over it."""
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
_BANDS = int(SAMPLE_RATE / 2 / BAND)
_LOWEST = 13  # vowels and tones alone end lower, at any sample rate


class Facts(NamedTuple):
    """Measurements of the 16 kHz samples of one utterance."""

    level: float
    """Root mean square, in dB of full scale."""
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


def measure(samples: np.ndarray) -> Facts:
    """The facts of 16 kHz audio `[samples]`, float32 in [-1, 1]."""
    level = decibels(float(np.dot(samples, samples)) / len(samples))
    peak = decibels(max(float(samples.max()), -float(samples.min())) ** 2)
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    if not len(frames):
        return Facts(round(level, 1), round(peak, 1), 0.0, None)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME
    loudness = 10 * np.log10(np.maximum(power, 1e-30))
    loudest = float(np.sort(loudness)[int(0.95 * (len(loudness) - 1))])
    loud = np.flatnonzero(loudness > max(loudest - QUIET, FAINT))
    silence = 1 - len(loud) / len(frames)
    found = bandwidth(frames[loud]) if len(loud) else None
    return Facts(round(level, 1), round(peak, 1), round(silence, 3), found)


def bandwidth(frames: np.ndarray) -> float | None:
    """Hz at which the spectrum of `[frames, FRAME]` samples ends, to 250 Hz.

    That is where the mean power of 1 kHz is at least EDGE_DROP above all that follows half a kHz
    later.  The end of audio sampled at 8 kHz is about 4000, whatever its rate is now; a codec's or
    a filter's low-pass has an end, too.
    """
    if len(frames) > MOST_FRAMES:
        frames = frames[np.linspace(0, len(frames) - 1, MOST_FRAMES).astype(int)]
    spectrum = np.fft.rfft(frames * _WINDOW)[:, : FRAME // 2]
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    bands = power.mean(axis=0).reshape(_BANDS, -1).sum(axis=1)
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


def origin_of(path: Path) -> Origin:
    """Format, encoding, rate and channels of a file, by its header; UNKNOWN if it is unreadable."""
    import soundfile

    suffix = path.suffix.lower()
    try:
        if suffix not in HEADERLESS and suffix != ".raw":
            with silent_stderr(), soundfile.SoundFile(os.fsencode(path)) as file:
                return Origin(file.format, file.subtype, file.samplerate, file.channels)
    except (soundfile.LibsndfileError, OSError, ValueError):
        pass
    return _origin_by_av(path, HEADERLESS.get(suffix))


def _origin_by_av(path: Path, headerless: str | None) -> Origin:
    try:
        import av
    except ImportError:
        return UNKNOWN
    try:
        with av.open(f"file:{path}", format=headerless) as container:
            codec = container.streams.audio[0].codec_context
            return Origin(container.format.name, codec.name, codec.sample_rate, codec.channels)
    except (av.FFmpegError, OSError, ValueError, IndexError, AttributeError):
        return UNKNOWN
