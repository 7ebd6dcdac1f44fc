"""The sample rate of the model, and resampling to it."""

from collections.abc import Iterable, Iterator

import numpy as np

SAMPLE_RATE = 16_000
"""Hz; every model of this repository takes audio at this rate."""


def resample(waveform: np.ndarray, rate: float) -> np.ndarray:
    """Resample `[samples]` from `rate` to 16,000 Hz with soxr (high quality)."""
    return np.concatenate([*resample_blocks([waveform], rate)])


def resample_blocks(blocks: Iterable[np.ndarray], rate: float) -> Iterator[np.ndarray]:
    """`resample` of a waveform in blocks `[samples]`; the result does not depend on the blocks."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    import soxr  # only other sample rates need it

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block, dtype=np.float32))
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)
