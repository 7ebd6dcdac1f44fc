"""hypotheses_<subset>.jsonl -> totals, and a report that shows where the errors are.

Lines are read one by one.  Memory holds counts, the worst utterances, and for each kind of error
a counter with one entry per different pair of reference and hypothesis word.
"""

import heapq
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError
from wav2vec2.text.error_rate import ErrorCounts, Pair, pair_words

LISTED = 20
"""Most utterances, and most errors of each kind, that a report lists."""

LENGTHS = (2.0, 5.0, 10.0, 20.0, math.inf)
"""Upper ends, in seconds, of the lengths by which utterances are grouped."""

KINDS = ("substitutions", "deletions", "insertions")


def read_results(path: Path) -> Iterator[dict[str, Any]]:
    """The results in a hypotheses_<subset>.jsonl; UserError names a line that is not one."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                result = json.loads(line)
                result["id"], result["hypothesis"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path}:{number}: not a result of `inference.py evaluate`"
                ) from None
            yield result


def count_differing(path: Path, other: Path) -> int:
    """Number of utterances whose hypotheses in `path` and `other` differ.

    UserError if the two are not of the same filelist.
    """
    differing = 0
    for result, compared in itertools.zip_longest(read_results(path), read_results(other)):
        if not result or not compared or result["id"] != compared["id"]:
            raise UserError(f"--compare: {other} is not of the same filelist as {path}")
        differing += result["hypothesis"] != compared["hypothesis"]
    return differing


@dataclass
class Report:
    """The sums of an evaluation's results."""

    words: ErrorCounts = field(default_factory=ErrorCounts)
    units: ErrorCounts = field(default_factory=ErrorCounts)
    utterances: int = 0
    correct: int = 0
    """Utterances without a word error."""
    seconds: float = 0.0
    pairs: dict[str, Counter[Pair]] = field(
        default_factory=lambda: {kind: Counter() for kind in KINDS}
    )
    """Kind of error -> how often each pair of reference and hypothesis word occurred."""
    by_length: list[ErrorCounts] = field(default_factory=lambda: [ErrorCounts() for _ in LENGTHS])
    """Word errors by the length of the audio."""
    worst: list[tuple[int, float, int, dict[str, Any]]] = field(default_factory=list)
    """A heap of at most LISTED entries: word errors, errors per reference word, minus the place in
    the filelist, and the result."""

    @classmethod
    def from_file(cls, path: Path) -> "Report":
        """The report of a hypotheses_<subset>.jsonl."""
        report = cls()
        for result in read_results(path):
            report.add(result)
        return report

    def add(self, result: dict[str, Any]) -> None:
        """Count one utterance."""
        errors, words = result["word_errors"], result["words"]
        self.seconds += result["seconds"]
        size = next(n for n, limit in enumerate(LENGTHS) if result["seconds"] <= limit)
        for counts in (self.words, self.by_length[size]):
            counts.errors += errors
            counts.reference += words
        self.units.errors += result["unit_errors"]
        self.units.reference += result["units"]
        if errors:
            for pair in word_pairs(result):
                if pair[0] != pair[1]:
                    self.pairs[KINDS[(pair[1] is None) + 2 * (pair[0] is None)]][pair] += 1
            entry = (errors, errors / max(words, 1), -self.utterances, result)
            push = heapq.heappush if len(self.worst) < LISTED else heapq.heappushpop
            push(self.worst, entry)
        else:
            self.correct += 1
        self.utterances += 1

    def edits(self) -> dict[str, int]:
        """Word errors of each kind."""
        return {kind: sum(counter.values()) for kind, counter in self.pairs.items()}

    def summary(self) -> dict[str, Any]:
        return {
            "wer": self.words.rate,
            "uer": self.units.rate,
            "utterances": self.utterances,
            "words": self.words.reference,
            "word_errors": self.words.errors,
            **self.edits(),
            "units": self.units.reference,
            "unit_errors": self.units.errors,
            "audio_seconds": self.seconds,
        }

    def markdown(self, title: str) -> Iterator[str]:
        """The report's lines."""
        edits = self.edits()
        yield from [f"# {title}", ""]
        yield (
            f"{self.utterances} utterances, {self.seconds / 3600:.2f} hours; {self.correct} of "
            "them without a word error."
        )
        yield from [
            "",
            "| | reference | errors | rate | " + " | ".join(KINDS) + " |",
            "|---" * 7 + "|",
        ]
        yield (
            f"| words | {self.words.reference} | {self.words.errors} | {self.words.rate:.2f} % | "
            + " | ".join(str(edits[kind]) for kind in KINDS)
            + " |"
        )
        yield (
            f"| units | {self.units.reference} | {self.units.errors} | {self.units.rate:.2f} % "
            "| | | |"
        )
        yield from ["", "| audio | words | WER |", "|---|---|---|"]
        for low, high, counts in zip((0.0, *LENGTHS), LENGTHS, self.by_length):
            if counts.reference or counts.errors:
                span = f"over {low:g} s" if math.isinf(high) else f"{low:g} to {high:g} s"
                yield f"| {span} | {counts.reference} | {counts.rate:.2f} % |"
        for kind in KINDS:
            # Ties in alphabetical order, so that equal results give equal reports.
            common = sorted(
                self.pairs[kind].items(), key=lambda item: (-item[1], *map(str, item[0]))
            )[:LISTED]
            if common:
                yield from ["", f"## Most frequent {kind}", ""]
                yield from ["| times | reference | hypothesis |", "|---|---|---|"]
                for (reference, hypothesis), times in common:
                    yield f"| {times} | {reference or ''} | {hypothesis or ''} |"
        if self.worst:
            yield from ["", "## Utterances with the most errors"]
        for errors, _, _, result in sorted(self.worst, key=lambda entry: entry[:3], reverse=True):
            sure = result["confidence"]
            confidence = "" if sure is None else f", confidence {sure}"
            yield ""
            yield (
                f"`{result['id']}`, {result['seconds']:.1f} s: {errors} errors in "
                f"{result['words']} words{confidence}"
            )
            yield from ["", "```", *side_by_side(word_pairs(result)), "```"]


def word_pairs(result: dict[str, Any]) -> list[Pair]:
    """The words of reference and hypothesis, aligned with the fewest errors."""
    return pair_words(result["hypothesis"].split(), result["reference"].split())


def side_by_side(pairs: list[Pair]) -> Iterator[str]:
    """Two lines, the reference above the hypothesis, with `*` for a missing word."""
    widths = [max(len(word) for word in pair if word) for pair in pairs]
    for name, side in (("REF:", 0), ("HYP:", 1)):
        words = ((pair[side] or "*" * width).ljust(width) for pair, width in zip(pairs, widths))
        yield f"{name} {' '.join(words)}".rstrip()


def examples(path: Path, count: int, utterances: int) -> Iterator[dict[str, Any]]:
    """About `count` results of `utterances`, spread evenly over the file."""
    step = max(utterances // max(count, 1), 1)
    yield from itertools.islice(read_results(path), 0, step * count, step)
