"""Forced alignment: the best CTC path through a known transcript; units -> words with times."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import BLANK
from wav2vec2.text.subwords import WORD_START
from wav2vec2.text.vocabulary import WORD_END, Spelling, Vocabulary


@dataclass(frozen=True)
class Span:
    """A unit or a word, and the frames it takes."""

    text: str
    start: int
    """First frame."""
    end: int
    """Frame after the last."""
    score: float
    """Geometric mean of the units' posteriors over their frames, 0 to 1."""


def frames_needed(labels: Sequence[int] | Sequence[str]) -> int:
    """Fewest frames of a CTC path for `labels`: one per label, and a blank between equal ones."""
    return len(labels) + sum(a == b for a, b in zip(labels, labels[1:]))


def align(log_probabilities: np.ndarray, labels: Sequence[int]) -> list[tuple[int, int, float]]:
    """Viterbi: the most probable of all CTC paths that collapse to `labels` (Graves et al. 2006).

    `log_probabilities` `[frames, units]`, natural logarithms; `labels`: ids without blanks.
    Returns for each label its first frame, the frame after its last, and its score (see Span).
    Blank frames belong to no label.  UserError if there are too few frames.
    """
    frames, needed = len(log_probabilities), frames_needed(labels)
    if frames < needed:
        raise UserError(
            f"{frames} frames for a transcript that needs {needed}; check that it belongs to the "
            "recording"
        )
    if not labels:
        return []
    states = np.full(2 * len(labels) + 1, BLANK)  # blank, label, blank, label, ..., blank
    states[1::2] = labels
    may_skip = np.zeros(len(states), dtype=bool)  # the blank between two different labels
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probabilities[0, states[:2]]
    steps = np.zeros((frames, len(states)), dtype=np.int8)  # states advanced to get here
    for frame in range(1, frames):
        one, two = np.full_like(scores, -np.inf), np.full_like(scores, -np.inf)
        one[1:] = scores[:-1]
        two[2:] = np.where(may_skip[2:], scores[:-2], -np.inf)
        candidates = np.stack([scores, one, two])
        steps[frame] = candidates.argmax(axis=0)
        scores = candidates.max(axis=0) + log_probabilities[frame, states]
    state = len(states) - 1 if scores[-1] > scores[-2] else len(states) - 2
    path = np.empty(frames, dtype=int)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state -= int(steps[frame, state])  # an int8 would overflow
    spans = []
    for index, label in enumerate(labels):
        (own,) = np.nonzero(path == 2 * index + 1)
        mean = log_probabilities[own, label].mean()
        spans.append((int(own[0]), int(own[-1]) + 1, math.exp(mean)))
    return spans


def align_units(
    log_probabilities: np.ndarray, labels: Sequence[int], units: Sequence[str]
) -> list[Span]:
    """`align`, with the symbol of each label."""
    spans = align(log_probabilities, labels)
    return [Span(unit, *span) for unit, span in zip(units, spans, strict=True)]


def group_words(units: Iterable[Span], spelling: Spelling) -> list[Span]:
    """Units -> words, from the first unit's start to the last one's end, without separators."""
    words: list[list[Span]] = []
    begins = True
    for unit in units:
        if spelling is Spelling.LETTERS and unit.text == WORD_END:
            begins = True
            continue
        if begins or spelling is Spelling.TOKENS or unit.text.startswith(WORD_START):
            words.append([])
        words[-1].append(unit)
        begins = False
    # A piece may be just the mark of a word's start, which spells no word.
    return [join(word, spelling) for word in words if spelling.words(u.text for u in word)]


def path_units(
    path: np.ndarray, log_probabilities: np.ndarray, vocabulary: Vocabulary
) -> Iterator[Span]:
    """The units of a CTC path, in order, without blanks and special symbols.

    `path` `[frames]`: the unit of each frame; `log_probabilities` `[frames]`: of these units.
    """
    if len(path) == 0:
        return
    starts = np.concatenate([[0], np.flatnonzero(np.diff(path)) + 1])
    ends = np.append(starts[1:], len(path))
    means = np.add.reduceat(log_probabilities, starts, dtype=np.float64) / (ends - starts)
    runs = zip(path[starts].tolist(), starts.tolist(), ends.tolist(), means.tolist())
    for unit, start, end, mean in runs:
        if unit != BLANK:
            for symbol in vocabulary.decode([unit]):
                yield Span(symbol, start, end, math.exp(mean))


def path_words(
    path: np.ndarray,
    log_probabilities: np.ndarray,
    words: Sequence[str],
    ends: Sequence[int],
    separators: Sequence[int],
) -> Iterator[Span]:
    """A lexicon's `words` on a CTC path; see `path_units`.

    `ends`: the frame that completes each word; `separators`: units between words, and the blank.
    """
    in_words = ~np.isin(path, separators)
    begin = 0
    for word, end in zip(words, ends, strict=True):
        own = begin + np.flatnonzero(in_words[begin : end + 1])
        if len(own) == 0:  # a word that is spelt by a separator alone
            own = np.array([end])
        score = math.exp(log_probabilities[own].mean(dtype=np.float64))
        yield Span(word, int(own[0]), int(own[-1]) + 1, score)
        begin = end + 1


def join(units: Sequence[Span], spelling: Spelling) -> Span:
    """The word that `units` spell; its score is their mean, weighted by frames."""
    frames = sum(unit.end - unit.start for unit in units)
    total = sum((unit.end - unit.start) * math.log(max(unit.score, 1e-300)) for unit in units)
    text = spelling.words(unit.text for unit in units)
    return Span(text, units[0].start, units[-1].end, math.exp(total / frames))


def textgrid(tiers: dict[str, Sequence[tuple[float, float, str]]], duration: float) -> str:
    """Praat's TextGrid (long text format): interval tiers without gaps from 0 to `duration`.

    `tiers`: name -> (start, end, text) in seconds, ascending, without overlap.  Gaps become empty
    intervals.
    """
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {duration:.6f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, given) in enumerate(tiers.items(), start=1):
        intervals = fill_gaps(given, duration)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {quoted(name)}",
            "        xmin = 0",
            f"        xmax = {duration:.6f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for index, (start, end, text) in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
                f"            text = {quoted(text)}",
            ]
    return "\n".join(lines) + "\n"


def fill_gaps(
    intervals: Sequence[tuple[float, float, str]], duration: float
) -> list[tuple[float, float, str]]:
    """The intervals, with empty ones in the gaps between, before and after them."""
    filled, at = [], 0.0
    for start, end, text in intervals:
        if start > at:
            filled.append((at, start, ""))
        filled.append((start, end, text))
        at = end
    return [*filled, (at, duration, "")] if at < duration else filled


def quoted(text: str) -> str:
    """`text` in quotes; quotes inside are doubled, as in Praat's format."""
    return '"' + text.replace('"', '""') + '"'
