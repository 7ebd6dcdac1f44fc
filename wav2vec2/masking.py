"""Draw span masks over time (arXiv 2006.11477, section 3.1) and over channels."""

from collections.abc import Sequence

import numpy as np

from wav2vec2.config import SpanDistribution


def _span_lengths(
    spans: int,
    span: int,
    distribution: SpanDistribution,
    other: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw the lengths of `spans` spans: at least 1, except that `poisson` can give 0."""
    if distribution == "static":
        return np.full(spans, span)
    if distribution == "uniform":
        return generator.integers(int(other), 2 * span, size=spans, endpoint=True)
    if distribution == "normal":
        return np.maximum(np.rint(generator.normal(span, other, size=spans)), 1).astype(np.int64)
    assert distribution == "poisson", distribution
    return generator.poisson(span, size=spans)


def _covered(positions: int, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Positions inside any span `first` ... `end` - 1, as bool `[positions]`."""
    begun, ended = (
        np.bincount(np.minimum(edges, positions), minlength=positions + 1) for edges in (first, end)
    )
    return np.cumsum(begun - ended)[:positions] > 0


def _mask_row(
    positions: int,
    spans: int,
    span: int,
    distribution: SpanDistribution,
    other: float,
    generator: np.random.Generator,
    min_masked: int,
) -> np.ndarray:
    """Draw the masked positions, ascending, of one row of `positions`; spans may overlap."""
    if spans == 0 or positions <= 1:
        return np.empty(0, dtype=np.int64)
    lengths = _span_lengths(spans, span, distribution, other, generator)
    if lengths.sum() == 0:
        lengths[0] = min(span, positions - 1)
    shortest = int(lengths.min())
    # A short row has fewer starts than spans: take spans + 1 starts and cut at the row's end.
    starts = positions - shortest if positions - shortest > spans else spans + 1
    first = generator.choice(starts, spans, replace=False)
    mask = _covered(positions, first, first + lengths)
    if mask.all():
        mask[generator.integers(positions)] = False
    missing = min(min_masked, positions - 1) - np.count_nonzero(mask)
    if missing > 0:  # short spans that overlap or are cut at the row's end
        mask[generator.choice(np.flatnonzero(~mask), missing, replace=False)] = True
    return np.flatnonzero(mask)


def _span_count(positions: int, probability: float, span: int, offset: float, minimum: int) -> int:
    return max(int(probability * positions / span + offset), minimum)


def _thin(rows: list[np.ndarray], generator: np.random.Generator) -> list[np.ndarray]:
    """Remove random positions until every row has as many as the shortest."""
    fewest = min(map(len, rows))
    return [
        row if len(row) == fewest else np.sort(generator.choice(row, fewest, replace=False))
        for row in rows
    ]


def draw_time_masks(
    frame_counts: Sequence[int],
    *,
    probability: float,
    span: int,
    distribution: SpanDistribution = "static",
    other: float = 0.0,
    generator: np.random.Generator,
    padded: bool,
    min_spans: int = 2,
    min_masked: int = 2,
) -> list[np.ndarray]:
    """Draw the masked frames of each row of a sub-batch, ascending; all rows get the same number M.

    `frame_counts`: valid frames of each row.  The number of spans is floor(probability x frames /
    span + u), at least `min_spans`.  u is uniform in [0, 1), drawn once for the sub-batch, or per
    row if rows are `padded`.  Starts are drawn without replacement.  No row is masked entirely.
    If a row has fewer than `min_masked` masked frames, single frames are added while one stays
    unmasked.  So rows of at least 3 frames have the 2 masked frames that distractors need.  With
    probability 0 nothing is masked.
    """
    if probability == 0:
        return [np.empty(0, dtype=np.int64) for _ in frame_counts]
    shared = generator.random()
    rows = []
    for frames in frame_counts:
        offset = generator.random() if padded else shared
        spans = _span_count(frames, probability, span, offset, min_spans)
        row = _mask_row(frames, spans, span, distribution, other, generator, min_masked)
        rows.append(row)
    return _thin(rows, generator)


def draw_channel_masks(
    rows: int, channels: int, *, probability: float, span: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw the channels to zero, bool `[rows, channels]`; no minimum number of spans."""
    masks = np.zeros((rows, channels), dtype=bool)
    if probability > 0:
        spans = _span_count(channels, probability, span, generator.random(), 0)
        drawn = [_mask_row(channels, spans, span, "static", 0.0, generator, 0) for _ in range(rows)]
        for mask, masked in zip(masks, _thin(drawn, generator)):
            mask[masked] = True
    return masks
