"""Forced alignment: the best CTC path through a known transcript; units -> words with times."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import BLANK
from wav2vec2.text.subwords import WORD_START
from wav2vec2.text.vocabulary import WORD_END, Spelling, Vocabulary

WILDCARD = -1
"""In place of a label: any units, at least one frame of them."""

BLOCK = 512
"""Frames from one stored band of the search to the next."""

PRUNE = 32
"""Frames after which states of too high a loss are dropped."""

UNTRANSCRIBED = 5
"""Frames with another best unit than the blank, between two labels, from which there is speech that
the labels lack."""

IMPOSSIBLE = 1e6
"""Largest loss of a frame; log probabilities may be minus infinity."""

WILDCARD_LOSS = 1e-6
"""Loss of a wildcard's frame: frames that words explain equally well belong to the words."""


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

    `log_probabilities` `[frames, units]`, natural logarithms; `labels`: ids without blanks, and
    WILDCARD for any units.  Returns for each label its first frame, the frame after its last, and
    its score (see Span).  Blank frames belong to no label.  UserError if there are too few frames.
    """
    aligner = Aligner(labels)
    aligner.add(log_probabilities)
    return aligner.spans()


class Aligner:
    """Aligns labels with emissions that arrive in parts, as those of a long recording do.

    It holds, for each frame, only the units that occur in the labels.
    """

    def __init__(self, labels: Sequence[int]):
        """`labels`: see `align`."""
        units = sorted({BLANK, *labels} - {WILDCARD})
        place = {unit: number for number, unit in enumerate(units)} | {WILDCARD: len(units)}
        self._units = units
        self._labels = np.array([place[label] for label in labels], dtype=np.intp)
        self._needed = frames_needed(labels)
        self._parts: list[np.ndarray] = [np.empty((0, len(units) + 1), np.float32)]
        self.untranscribed: list[tuple[int, int]] = []
        """First frame, and the one after the last, of each gap between labels in which another unit
        than the blank is best on UNTRANSCRIBED frames or more.  Known after `spans`."""

    def add(self, log_probabilities: np.ndarray) -> None:
        """Take the next frames, `[frames, units]`."""
        best = log_probabilities.max(axis=1, initial=-np.inf)
        self._parts.append(np.column_stack([log_probabilities[:, self._units], best]))

    def spans(self) -> list[tuple[int, int, float]]:
        """What `align` returns, for all frames."""
        emissions = np.concatenate(self._parts)
        self._parts = [emissions]
        frames, labels = len(emissions), self._labels
        if frames < self._needed:
            raise UserError(
                f"{frames} frames for a transcript that needs {self._needed}; check that it "
                "belongs to the recording"
            )
        if not len(labels):
            return []
        path = best_path(emissions, labels)
        spoken = np.flatnonzero((path % 2 == 0) & (emissions[:, BLANK] < emissions[:, -1]))
        _, first, counts = np.unique(path[spoken], return_index=True, return_counts=True)
        for start, count in zip(first.tolist(), counts.tolist()):
            if count >= UNTRANSCRIBED:
                edges = spoken[start], spoken[start + count - 1]
                self.untranscribed.append((int(edges[0]), int(edges[1]) + 1))
        starts = np.searchsorted(path, 2 * np.arange(len(labels)) + 1)
        ends = np.searchsorted(path, 2 * np.arange(len(labels)) + 1, side="right")
        runs = zip(starts.tolist(), ends.tolist(), labels.tolist())
        return [(a, b, math.exp(emissions[a:b, label].mean())) for a, b, label in runs]


def best_path(emissions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The most probable CTC path, `[frames]`: 2 k + 1 for label k, 2 k for the blank before it.

    `emissions` `[frames, units + 1]`: log probabilities; the first unit is the blank, the last
    column has the highest of each frame over all units, and is what a wildcard takes.  `labels`:
    columns.

    The result is that of a full search.  The loss of a path is how much less probable it is than
    the best unit of every frame.  It never falls along a path.  So a search that drops states of
    a loss above a bound is exact if it finds a path within the bound; otherwise the bound is
    raised.  Time is in proportion to frames times the labels within the bound, a narrow band if
    the transcript fits.  Memory: that band at one frame in BLOCK.
    """
    bound = 50 + 0.02 * len(emissions)
    while (found := _search(emissions, labels, bound)) is None:
        bound *= 3
    return _trace(emissions, labels, *found)


@dataclass
class _Band:
    """The losses of the best paths to a range of states, before a frame.

    State pair k is the blank before label k, and label k; the last pair has no label.
    """

    low: int
    """First pair."""
    blanks: np.ndarray
    """`[pairs]`: loss of the best path that ends in the blank of each pair."""
    labels: np.ndarray
    """`[pairs]`: loss of the best path that ends in the label of each pair."""


def _losses(emissions: np.ndarray, start: int) -> np.ndarray:
    """Losses of a block of frames `[BLOCK, units + 2]`; in the last column, of what cannot be."""
    block = emissions[start : start + BLOCK].astype(np.float64)
    losses = np.full((len(block), block.shape[1] + 1), np.inf)
    losses[:, :-1] = np.minimum(block[:, -1:] - block, IMPOSSIBLE)
    losses[:, -2] = WILDCARD_LOSS
    return losses


def _columns(emissions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pair, the column of its label in `_losses`, and what skipping its blank costs:
    nothing, or infinity if the label before is the same (or there is none)."""
    columns = np.append(labels, emissions.shape[1])
    skip = np.where(np.append(True, columns[1:] == columns[:-1]), np.inf, 0.0)
    return columns, skip


def _search(
    emissions: np.ndarray, labels: np.ndarray, bound: float
) -> tuple[list[_Band], int] | None:
    """The band before each block, and the last state; None if all paths lose more than `bound`."""
    frames, pairs = len(emissions), len(labels) + 1
    columns, skip = _columns(emissions, labels)
    blanks = np.full(pairs, np.inf)
    units = np.full(pairs + 1, np.inf)  # shifted by one: units[k + 1] is label k
    spare = np.empty(pairs)
    blanks[0] = 0.0
    low, high = 0, 1
    bands = []
    for start in range(0, frames, BLOCK):
        bands.append(_Band(low, blanks[low:high].copy(), units[low + 1 : high + 1].copy()))
        for frame, losses in enumerate(_losses(emissions, start), start=start):
            high = min(high + 1, pairs)
            blank, unit, before = blanks[low:high], units[low + 1 : high + 1], units[low:high]
            new = np.add(before, skip[low:high], out=spare[: high - low])
            np.minimum(new, unit, out=new)
            np.minimum(new, blank, out=new)
            np.minimum(blank, before, out=blank)
            blank += losses[BLANK]
            np.add(new, losses.take(columns[low:high]), out=unit)
            if frame % PRUNE == 0:
                alive = np.flatnonzero(np.minimum(blank, unit) <= bound)
                if not len(alive):
                    return None
                # A label needs a frame, so that states too far from the end cannot reach it.
                first = max(low + int(alive[0]), pairs - 2 - (frames - frame))
                last = low + int(alive[-1]) + 1
                blanks[low:first] = units[low + 1 : first + 1] = np.inf
                blanks[last:high] = units[last + 1 : high + 1] = np.inf
                low, high = first, max(last, first + 1)
    loss, label_loss = float(blanks[-1]), float(units[-2])
    if min(loss, label_loss) > bound:
        return None
    return bands, 2 * len(labels) - int(label_loss <= loss)


def _trace(
    emissions: np.ndarray, labels: np.ndarray, bands: Sequence[_Band], state: int
) -> np.ndarray:
    """The path that ends in `state`, block by block from the last.

    A path enters at most one label per frame, so a block needs as many states as frames.
    """
    path = np.empty(len(emissions), dtype=np.int64)
    columns, skip = _columns(emissions, labels)
    for number in range(len(bands) - 1, -1, -1):
        band, start = bands[number], number * BLOCK
        losses = _losses(emissions, start)
        pair = state // 2
        base = max(band.low, pair - len(losses))
        own = slice(base, pair + 1)
        blank, unit = (np.full(pair + 1 - base, np.inf) for _ in range(2))
        known = slice(base - band.low, pair + 1 - band.low)
        blank[: len(band.blanks[known])] = band.blanks[known]
        unit[: len(band.labels[known])] = band.labels[known]
        steps = np.empty((len(losses), 2, len(blank)), dtype=np.int8)  # states advanced
        before = np.full(len(blank), np.inf)
        for row, step in zip(losses, steps):
            before[1:] = unit[:-1]
            two = before + skip[own]
            stay = np.minimum(unit, blank)
            step[0] = before < blank
            step[1] = np.where(two < stay, 2, blank < unit)
            blank = np.minimum(blank, before) + row[BLANK]
            unit = np.minimum(stay, two) + row.take(columns[own])
        for frame in range(len(losses) - 1, -1, -1):
            path[start + frame] = state
            state -= int(steps[frame, state % 2, state // 2 - base])
    return path


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
