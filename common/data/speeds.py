"""Speed perturbation: the same utterance, played slower and faster, counts as several.

Tempo and pitch change together, as when a tape runs at another speed, so that a few voices become
more (Ko et al. 2015, "Audio augmentation for speech recognition").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wav2vec2.audio.packed import read_audio
from wav2vec2.audio.resample import SAMPLE_RATE, resample
from wav2vec2.files.filelists import Manifest, Utterance

SLOWEST, FASTEST = 0.5, 2.0


@dataclass(frozen=True)
class PlayedUtterance(Utterance):
    """An utterance at another speed; `samples` is its length at that speed."""

    recorded: int
    """Samples in the file."""
    speed: float


def at_speeds(manifest: Manifest, speeds: Sequence[float]) -> Manifest:
    """Each utterance at each of `speeds`, neighbours in the list; as recorded if there are none."""
    if not speeds:
        return manifest
    played = [u if speed == 1 else _play(u, speed) for u in manifest.utterances for speed in speeds]
    return replace(manifest, utterances=tuple(played))


def _play(utterance: Utterance, speed: float) -> PlayedUtterance:
    values = {**vars(utterance), "samples": round(utterance.samples / speed)}
    return PlayedUtterance(**values, recorded=utterance.samples, speed=speed)


def read_at_speed(utterance: Utterance, start: int = 0, count: int | None = None) -> np.ndarray:
    """The audio of an utterance at its speed: float32 `[count]` at 16 kHz, from sample `start`.

    `count`: default: to its end.  UserError, naming the file, as in `read_audio`.
    """
    if not isinstance(utterance, PlayedUtterance):
        return read_audio(utterance.path, utterance.samples, start, count)
    whole = read_audio(utterance.path, utterance.recorded)
    played = resample(whole, SAMPLE_RATE * utterance.speed)
    # The resampler may round the length the other way.
    fitted = np.zeros(utterance.samples, dtype=np.float32)
    kept = min(len(played), len(fitted))
    fitted[:kept] = played[:kept]
    return fitted[start:] if count is None else fitted[start : start + count]
