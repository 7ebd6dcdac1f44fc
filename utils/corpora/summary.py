"""What a data set holds: corpus.json, and its summary on the console."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpora.conversion import Converted, Skipped
from utils.corpora.rows import SUBSETS
from utils.corpora.sources import Utterance
from utils.corpora.splits import shared_between
from wav2vec2.audio.resample import SAMPLE_RATE

LARGEST_CROP = 320_000
"""Samples, the longest of the published Base recipe."""
FEW_UTTERANCES = 20
"""Below so many, an error rate says little."""
EDGES = (0, 0.5, 1, 2, 4, 8, 15, 30)
"""Seconds between the bars of the histogram of durations."""


def recommended_sizes(samples: Sequence[int]) -> dict[str, int]:
    """MIN_SAMPLE_SIZE and MAX_SAMPLE_SIZE, in samples, with which pre-training loses little audio.

    LibriSpeech's values skip utterances below two seconds.
    """
    shortest, long = np.percentile(samples, (0, 95))
    return {
        "MIN_SAMPLE_SIZE": min(int(shortest), 32_000),
        "MAX_SAMPLE_SIZE": min(-(-int(long) // 8000) * 8000, LARGEST_CROP),
    }


def summarise(
    kept: Sequence[tuple[Utterance, Converted]],
    subsets: Mapping[str, str],
    skipped: Sequence[Skipped],
    noted: Sequence[Skipped],
    about: Mapping[str, str],
) -> dict[str, Any]:
    """The content of corpus.json: sizes in utterances, hours and speakers, text, what was skipped.

    `about`: licence and origin, as the user gave them.
    """
    by_subset = {}
    for subset in SUBSETS:
        members = [(u, c.samples) for u, c in kept if subsets[u.id] == subset]
        if members:
            by_subset[subset] = {
                "utterances": len(members),
                "hours": round(sum(n for _, n in members) / SAMPLE_RATE / 3600, 5),
                "speakers": len({u.speaker for u, _ in members if u.speaker}),
            }
    seconds = [c.samples / SAMPLE_RATE for _, c in kept]
    counts, _ = np.histogram(seconds, bins=[*EDGES, np.inf])
    characters = Counter("".join(u.text or "" for u, _ in kept))
    return {
        **{name: value for name, value in about.items() if value},
        "subsets": by_subset,
        "recommended": recommended_sizes([c.samples for _, c in kept]),
        "seconds": {f"from {edge}": int(n) for edge, n in zip(EDGES, counts)},
        "characters": dict(characters.most_common()),
        "speech_rate": speech_rate(kept),
        "in_several_subsets": {
            "texts": len(shared_between(subsets, {u.id: u.text or "" for u, _ in kept})),
            "recordings": len(shared_between(subsets, {u.id: c.content for u, c in kept})),
        },
        "skipped": dict(Counter(entry.reason for entry in skipped).most_common()),
        "notes": dict(Counter(entry.reason for entry in noted).most_common()),
    }


def speech_rate(kept: Sequence[tuple[Utterance, Converted]]) -> dict[str, Any]:
    """Characters per second: the median, and the utterances farthest from it, probably wrong pairs.

    An utterance is listed if it is four times as fast or as slow as the median.
    """
    rates = {
        u.where: len(u.text) / (c.samples / SAMPLE_RATE) for u, c in kept if u.text is not None
    }
    if not rates:
        return {}
    median = float(np.median(list(rates.values())))
    far = {where: rate for where, rate in rates.items() if not median / 4 <= rate <= 4 * median}
    worst = sorted(far.items(), key=lambda item: -abs(np.log(item[1] / median)))
    return {
        "median": round(median, 2),
        "outliers": len(far),
        "farthest": {where: round(rate, 2) for where, rate in worst[:20]},
    }


def print_summary(content: Mapping[str, Any], path: Path) -> None:
    """Print what a reader should know before training."""
    print(f"{'subset':8}{'utterances':>12}{'hours':>10}{'speakers':>10}")
    for name, sizes in content["subsets"].items():
        speakers = sizes["speakers"] or "-"
        print(f"{name:8}{sizes['utterances']:>12}{sizes['hours']:>10.3f}{speakers:>10}")
    for name in ("valid", "test"):
        count = content["subsets"].get(name, {"utterances": 0})["utterances"]
        if count < FEW_UTTERANCES:
            what = f"{name} has {count} utterances" if count else f"there is no {name} set"
            advice = f"raise --{name}_share, into another folder"
            print(f"note: {what}, too few to measure error rates; {advice}")
    shared = content["in_several_subsets"]
    for kind, count in shared.items():
        if count:
            print(f"note: {count} {kind} occur in more than one subset")
    rate = content["speech_rate"]
    if rate and rate["outliers"]:
        where, value = next(iter(rate["farthest"].items()))
        print(
            f"note: {rate['outliers']} utterances have four times more or fewer characters per "
            f"second than the median of {rate['median']}, such as {where} with {value}: perhaps "
            "wrong transcripts"
        )
    print(f"{path}: sizes, characters, durations, what was skipped")
