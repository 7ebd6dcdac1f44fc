"""Transcripts: characters, words per second, and pairs that look wrong."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

SMALLEST_SPREAD = 0.15
"""Least spread (of the logarithm of the duration): within 1.8 times the usual, pairs are usual."""
FARTHEST = 4.0
"""Spreads from the usual rate at which a pair is listed."""
GROUP = 10
"""Utterances of about one length whose medians say how long that takes, at least."""
MOST_GROUPS = 20


def characters(texts: Sequence[str | None]) -> dict[str, tuple[int, int]]:
    """Character -> (its count, the index of the first text that has it), most frequent first."""
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        counts.update(text or "")
        for character in set(text or "") - first.keys():
            first[character] = index
    return {character: (count, first[character]) for character, count in counts.most_common()}


def usual_seconds(lengths: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """How long texts of these lengths usually take, by the medians of texts of about that length.

    Beyond the shortest and the longest group nothing is known: all is usual from as long as that
    group takes to its time in proportion.
    """
    count = min(max(1, len(lengths) // GROUP), MOST_GROUPS)
    groups = np.array_split(np.argsort(lengths, kind="stable"), count)
    sizes = np.array([np.median(lengths[group]) for group in groups])
    usual = np.array([np.median(seconds[group]) for group in groups])
    sizes, first = np.unique(sizes, return_inverse=True)
    usual = np.bincount(first, usual) / np.bincount(first)  # groups of one length count together
    constant = np.interp(lengths, sizes, usual)
    proportional = constant * lengths / lengths.clip(sizes[0], sizes[-1])
    low, high = np.minimum(constant, proportional), np.maximum(constant, proportional)
    return seconds.clip(low, high)


def deviations(lengths: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """How much faster than usual each text is spoken, in robust spreads; below 0, slower.

    A spread is 1.48 times the median distance from the usual duration, of logarithms.
    """
    rest = np.log(usual_seconds(lengths, seconds) / seconds)
    return rest / max(1.4826 * float(np.median(abs(rest))), SMALLEST_SPREAD)


def speech_rate(pairs: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Rates of (text, seconds): medians, words per second of each, and which pairs are unusual.

    `outliers`: indices of pairs, the most unusual first.
    """
    if not pairs:
        return {}
    letters = np.array([max(len(text), 1) for text, _ in pairs], dtype=float)
    words = np.array([len(text.split()) for text, _ in pairs], dtype=float)
    seconds = np.array([seconds for _, seconds in pairs])
    far = abs(deviations(letters, seconds))
    order = np.argsort(-far, kind="stable")
    return {
        "characters": letters / seconds,
        "words": words / seconds,
        "outliers": [int(index) for index in order[: int((far > FARTHEST).sum())]],
    }
