"""What a data set holds: the content of corpus.json, and its summary on the console."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpora.conversion import Converted, Skipped
from utils.corpora.rows import SUBSETS
from utils.corpora.sources import Utterance
from utils.corpus_report import skips
from utils.corpus_report.duplicates import describe_repeated, repeated
from utils.corpus_report.text import characters, speech_rate
from wav2vec2.audio.levels import NEARLY_SILENT
from wav2vec2.audio.resample import SAMPLE_RATE

LARGEST_CROP = 320_000
"""Samples, the longest of the published Base recipe."""
FEW_UTTERANCES = 20
"""Below so many, an error rate says little."""
LONGEST_TEXT = 200
"""Characters of a transcript that are shown."""
AROUND = 20
"""Characters of a transcript that are shown before and after a character."""

SECONDS = (0, 0.5, 1, 2, 4, 8, 15, 30)
LEVELS = (-120, -70, -50, -40, -35, -30, -25, -20, -15, -10)
PEAKS = (-120, -40, -30, -20, -12, -6, -3, -1, -0.1)
SHARES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BANDWIDTHS = (0, 4250, 5500, 7000, 8000)
WORDS = (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8)
"""Where the bars of the histograms begin."""

NARROW = 4250
"""Hz at which audio that was sampled at 8 kHz ends at most, as the spectrum is measured."""
MOSTLY_SILENT = 0.8
"""Share of silence from which an utterance is listed."""

Kept = Sequence[tuple[Utterance, Converted]]


def level_text(result: Converted) -> str:
    """How loud an utterance is."""
    return f"{result.facts.level:.0f} dBFS"


def narrow_text(result: Converted) -> str:
    """Where the spectrum ends, if the file's sample rate promises twice as much or more."""
    facts, origin = result.facts, result.origin
    if facts.bandwidth is None or facts.bandwidth > NARROW or origin.rate <= 2.5 * NARROW:
        return ""
    return f"ends at {facts.bandwidth:.0f} Hz, in a file of {origin.rate} Hz"


def silence_text(result: Converted) -> str:
    """How much of an utterance is silence, if it is most of it but not all."""
    facts = result.facts
    if facts.silence < MOSTLY_SILENT or facts.level < NEARLY_SILENT:
        return ""
    return f"{100 * facts.silence:.0f} % is silence"


FINDINGS: dict[str, Callable[[Converted], str]] = {
    "silent": lambda c: level_text(c) if c.facts.level < NEARLY_SILENT else "",
    "clipped": lambda c: c.notes.get("clipped", ""),
    "channels cancel": lambda c: c.notes.get("channels cancel", ""),
    "8 kHz in a file of a higher rate": narrow_text,
    "mostly silence": silence_text,
}
"""What is unusual about the audio of an utterance -> its detail, "" if the utterance is usual."""


def around(utterance: Utterance, character: str) -> str:
    """The part of a transcript where a character first is."""
    text = utterance.text or ""
    first = max(text.index(character) - AROUND, 0)
    return text[first : first + 2 * AROUND]


def recommended_sizes(samples: Sequence[int]) -> dict[str, int]:
    """MIN_SAMPLE_SIZE and MAX_SAMPLE_SIZE, in samples, with which pre-training loses little audio.

    LibriSpeech's values skip utterances below two seconds.
    """
    shortest, long = np.percentile(samples, (0, 95))
    return {
        "MIN_SAMPLE_SIZE": min(int(shortest), 32_000),
        "MAX_SAMPLE_SIZE": min(-(-int(long) // 8000) * 8000, LARGEST_CROP),
    }


def histogram(values: Iterable[float | None], edges: Sequence[float]) -> dict[str, int]:
    """`from <edge>` -> how many values are there, up to the next edge."""
    counts, _ = np.histogram([v for v in values if v is not None], bins=[*edges, np.inf])
    return {f"from {edge:g}": int(count) for edge, count in zip(edges, counts)}


def hours(samples: Iterable[int]) -> float:
    """Samples of 16 kHz audio in hours."""
    return round(sum(samples) / SAMPLE_RATE / 3600, 5)


def summarise(
    kept: Kept,
    subsets: Mapping[str, str],
    skipped: Sequence[Skipped],
    noted: Sequence[Skipped],
    about: Mapping[str, str],
) -> dict[str, Any]:
    """The content of corpus.json: sizes in utterances, hours and speakers, sound, text, what occurs
    twice, what was skipped.

    `about`: licence and origin, as the user gave them.
    """

    def entry(index: int, **more: Any) -> dict[str, Any]:
        """What identifies an utterance, and what it is."""
        utterance, result = kept[index]
        seconds = round(result.samples / SAMPLE_RATE, 2)
        text = {} if utterance.text is None else {"text": utterance.text[:LONGEST_TEXT]}
        names = {"id": utterance.id, "where": utterance.where, "subset": subsets[utterance.id]}
        return {**names, "seconds": seconds, **text, **more}

    alphabet = characters([u.text for u, _ in kept])
    rates = rate_content(kept, entry)

    def subset_of(index: int) -> str:
        return subsets[kept[index][0].id]

    equal = repeated(c.content for _, c in kept)
    copies = describe_repeated(equal, subset_of, entry)
    copies["different_texts"] = sum(len({kept[i][0].text for i in group}) > 1 for group in equal)
    texts = [
        group
        for group in repeated(u.text for u, _ in kept)
        if len(set(map(subset_of, group))) > 1  # in one subset, people say a sentence twice
    ]
    texts = describe_repeated(texts, subset_of, entry)
    return {
        **{name: value for name, value in about.items() if value},
        "subsets": subset_sizes(kept, subsets),
        "recommended": recommended_sizes([c.samples for _, c in kept]),
        "seconds": histogram((c.samples / SAMPLE_RATE for _, c in kept), SECONDS),
        "sources": sources(kept),
        "sound": {
            "level_dbfs": histogram((c.facts.level for _, c in kept), LEVELS),
            "peak_dbfs": histogram((c.facts.peak for _, c in kept), PEAKS),
            "silence_share": histogram((c.facts.silence for _, c in kept), SHARES),
            "bandwidth_hz": histogram((c.facts.bandwidth for _, c in kept), BANDWIDTHS),
        },
        "findings": findings(kept, entry),
        "characters": {character: count for character, (count, _) in alphabet.items()},
        "character_examples": {
            character: {"where": kept[index][0].where, "text": around(kept[index][0], character)}
            for character, (_, index) in alphabet.items()
        },
        "speech_rate": rates,
        "in_several_subsets": {
            "texts": texts["across_subsets"],
            "recordings": copies["across_subsets"],
        },
        "duplicates": {"recordings": copies, "texts": texts},
        "skipped": dict(Counter(entry.reason for entry in skipped).most_common()),
        "skipped_details": skips.describe(skipped),
        "notes": dict(Counter(entry.reason for entry in noted).most_common()),
        "examples": examples(kept, entry),
    }


def subset_sizes(kept: Kept, subsets: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Subset -> its utterances, hours, speakers, words, and lengths."""
    members = defaultdict(list)
    for utterance, result in kept:
        members[subsets[utterance.id]].append((utterance, result.samples))
    found = {}
    for name in SUBSETS:
        if not members[name]:
            continue
        samples = [count for _, count in members[name]]
        found[name] = {
            "utterances": len(samples),
            "hours": hours(samples),
            "speakers": len({u.speaker for u, _ in members[name] if u.speaker}),
            "words": sum(len((u.text or "").split()) for u, _ in members[name]),
            "shortest": round(min(samples) / SAMPLE_RATE, 2),
            "median": round(float(np.median(samples)) / SAMPLE_RATE, 2),
            "longest": round(max(samples) / SAMPLE_RATE, 2),
        }
    return found


def sources(kept: Kept) -> list[dict[str, Any]]:
    """Kinds of source files with their utterances and hours, the most frequent first."""
    samples = defaultdict(list)
    for _, result in kept:
        samples[result.origin].append(result.samples)
    ordered = sorted(samples.items(), key=lambda item: -len(item[1]))
    return [
        {**origin._asdict(), "utterances": len(counts), "hours": hours(counts)}
        for origin, counts in ordered
    ]


def findings(kept: Kept, entry: Callable[..., dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is unusual about the audio -> how many utterances, their hours, and the first ones."""
    found = {}
    for kind, detail_of in FINDINGS.items():
        details = {i: detail for i, (_, c) in enumerate(kept) if (detail := detail_of(c))}
        if details:
            shown = list(details.items())[: skips.MOST_EXAMPLES]
            found[kind] = {
                "utterances": len(details),
                "hours": hours(kept[index][1].samples for index in details),
                "examples": [entry(index, detail=detail) for index, detail in shown],
            }
    return found


def rate_content(kept: Kept, entry: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Characters and words per second: the medians, and pairs far from what is usual for their
    length, which are probably wrong."""
    indices = [index for index, (u, _) in enumerate(kept) if u.text is not None]
    pairs = [(kept[i][0].text, kept[i][1].samples / SAMPLE_RATE) for i in indices]
    rates = speech_rate([(text or "", seconds) for text, seconds in pairs])
    if not rates:
        return {}

    def rated(index: int) -> dict[str, Any]:
        values = {name: round(float(rates[name][index]), 2) for name in ("characters", "words")}
        return entry(indices[index], **{f"{name}_per_second": v for name, v in values.items()})

    by_words = np.argsort(rates["words"], kind="stable")
    return {
        "median": round(float(np.median(rates["characters"])), 2),
        "median_words": round(float(np.median(rates["words"])), 2),
        "words_per_second": histogram(rates["words"], WORDS),
        "outliers": len(rates["outliers"]),
        "farthest": [rated(index) for index in rates["outliers"][:20]],
        "slowest": [rated(int(index)) for index in by_words[:2]],
        "fastest": [rated(int(index)) for index in by_words[::-1][:2]],
    }


def examples(kept: Kept, entry: Callable[..., dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The utterances at both ends, two of each: by length and by level, without silent ones."""
    samples = [result.samples for _, result in kept]
    spoken = [i for i, (_, c) in enumerate(kept) if c.facts.level >= NEARLY_SILENT]

    def ends(indices: Iterable[int], key: Callable[[int], float]) -> list[list[dict[str, Any]]]:
        ordered = sorted(indices, key=key)
        chosen = (ordered[:2], ordered[::-1][:2])
        return [[entry(i, detail=level_text(kept[i][1])) for i in part] for part in chosen]

    shortest, longest = ends(range(len(kept)), lambda i: samples[i])
    quietest, loudest = ends(spoken, lambda i: kept[i][1].facts.level)
    return {"shortest": shortest, "longest": longest, "quietest": quietest, "loudest": loudest}


def print_summary(content: Mapping[str, Any], path: Path, page: Path) -> None:
    """Print what a reader should know before training; the rest is in the files."""
    print(f"{'subset':8}{'utterances':>12}{'hours':>10}{'share':>9}{'speakers':>10}")
    total = sum(sizes["hours"] for sizes in content["subsets"].values()) or 1.0
    for name, sizes in content["subsets"].items():
        share, speakers = 100 * sizes["hours"] / total, sizes["speakers"] or "-"
        size = f"{sizes['utterances']:>12}{sizes['hours']:>10.3f}{share:>7.1f} %{speakers:>10}"
        print(f"{name:8}{size}")
    for name in ("valid", "test"):
        count = content["subsets"].get(name, {"utterances": 0})["utterances"]
        if not count:
            why = "the corpus names none, and has too few speakers or recordings to draw one"
            print(f"note: there is no {name} set: {why}, or --{name}_share is 0")
        elif count < FEW_UTTERANCES:
            utterances = "1 utterance" if count == 1 else f"{count} utterances"
            few = f"note: {name} has {utterances}, too few to measure error rates"
            print(f"{few}; where it is drawn, raise --{name}_share, into another folder")
    sizes = [sizes for sizes in content["subsets"].values() if sizes["utterances"]]
    if len(sizes) > 1 and not any(size["speakers"] for size in sizes):
        print(
            "note: no speakers are known, so a voice may be in several subsets; --speaker_column "
            "or --speaker_pattern names them"
        )
    for kind, found in content["duplicates"].items():
        if count := found["across_subsets"]:
            names = [member["where"] for member in found["examples"][0]["members"]]
            such = " and ".join(names[:2])
            what = f"{kind[:-1]} occurs" if count == 1 else f"{kind} occur"
            print(f"note: {count} {what} in more than one subset, such as {such}")
    if count := content["duplicates"]["recordings"]["different_texts"]:
        what = "recording has" if count == 1 else "recordings have"
        print(f"note: {count} {what} several names and different transcripts")
    for kind, found in content["findings"].items():
        if not any(kind in note for note in content["notes"]):  # else it was printed with these
            example = found["examples"][0]
            where = f"{example['where']}: {example['detail']}"
            print(f"note, {kind}: {found['utterances']}, such as {where}")
    rate = content["speech_rate"]
    if rate and rate["outliers"]:
        first = rate["farthest"][0]
        print(
            f"note: {rate['outliers']} utterances are far faster or slower than others, "
            f"such as {first['where']} with {first['characters_per_second']} "
            f"characters per second (median {rate['median']}): perhaps wrong transcripts"
        )
    print(f"{path}: all that was measured; {page}: to read and listen")
