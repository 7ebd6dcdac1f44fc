"""The sample rate of the model, and resampling to it."""

from collections.abc import Iterable, Iterator

import numpy as np

SAMPLE_RATE = 16_000
"""Hz; every model of this repository takes audio at this rate."""


def resample(waveform: np.ndarray, rate: int, target_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Resample `[samples]` from `rate` to `target_rate` Hz with soxr (high quality)."""
    return np.concatenate([*resample_blocks([waveform], rate, target_rate)])


def resample_blocks(
    blocks: Iterable[np.ndarray], rate: int, target_rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """`resample` of a waveform in blocks `[samples]`; the result does not depend on the blocks."""
    if rate == target_rate:
        yield from blocks
        return
    import soxr  # only other sample rates need it

    stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block, dtype=np.float32))
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)
