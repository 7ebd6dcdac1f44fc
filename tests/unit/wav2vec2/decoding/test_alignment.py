"""Forced alignment against every path written out; TextGrids read back."""

import itertools
import math
import re

import numpy as np
import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import BLANK
from wav2vec2.decoding import alignment
from wav2vec2.decoding.alignment import (
    WILDCARD,
    Span,
    align,
    frames_needed,
    group_words,
    path_units,
    path_words,
)
from wav2vec2.decoding.timed_alignment import fill_gaps, textgrid
from wav2vec2.text.vocabulary import Spelling, Vocabulary

LETTERS = Vocabulary(["|", "A", "B"])


def random_log_probabilities(seed: int, frames: int, units: int) -> np.ndarray:
    logits = 2 * np.random.default_rng(seed).standard_normal((frames, units))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def slow_alignment(values: np.ndarray, labels: list[int]) -> list[tuple[int, int, float]]:
    """The best of all paths, spelt out."""

    def collapsed(path):
        return [i for i, _ in itertools.groupby(path) if i != BLANK]

    everything = itertools.product(range(values.shape[1]), repeat=len(values))
    fitting = [path for path in everything if collapsed(path) == labels]
    best = max(fitting, key=lambda path: sum(values[t, i] for t, i in enumerate(path)))
    spans, frame = [], 0
    for unit, run in itertools.groupby(best):
        length = len(list(run))
        if unit != BLANK:
            mean = values[frame : frame + length, unit].mean()
            spans.append((frame, frame + length, math.exp(mean)))
        frame += length
    return spans


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 1, 1, 2], [1, 2, 1]])
@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_the_best_of_all_paths(labels, seed):
    for frames in range(frames_needed(labels), 8):
        values = random_log_probabilities(seed, frames, 3)
        found = align(values, labels)
        for span, expected in zip(found, slow_alignment(values, labels), strict=True):
            assert span == pytest.approx(expected)


def test_a_long_transcript():
    """More states than the back-pointers' own type can count."""
    labels = [1 + n % 3 for n in range(200)]
    certain = np.full((200, 4), -30.0)
    certain[np.arange(200), labels] = 0.0
    spans = align(certain, labels)
    assert [(start, end) for start, end, _ in spans] == [(n, n + 1) for n in range(200)]


def full_search(values: np.ndarray, labels: list[int]) -> list[tuple[int, int, float]]:
    """Every state of every frame, one by one; a wildcard takes the best unit."""
    states = [BLANK, *(state for label in labels for state in (label, BLANK))]
    best = {0: (0.0, ())}  # state -> log probability and path; state 0 may be entered first
    for frame, row in enumerate(values):
        after = {}
        for state, unit in enumerate(states):
            steps = [state, state - 1] if frame else [0] if state < 2 else []
            if state % 2 and state > 2 and frame and states[state - 2] != unit:
                steps.append(state - 2)
            found = max((best[s] for s in steps if s in best), default=None, key=lambda x: x[0])
            if found:
                value = row.max() if unit == WILDCARD else row[unit]
                after[state] = (found[0] + value, (*found[1], state))
        best = after
    _, path = max((best[s] for s in (len(states) - 2, len(states) - 1)), key=lambda x: x[0])
    spans = []
    for index, label in enumerate(labels):
        own = [frame for frame, state in enumerate(path) if state == 2 * index + 1]
        units = values[own].max(axis=1) if label == WILDCARD else values[own, label]
        spans.append((own[0], own[-1] + 1, math.exp(units.mean())))
    return spans


def spoken(rng, labels: list[int], frames: int, loudness: float) -> np.ndarray:
    """Emissions in which the labels stand out by `loudness`, at random places in order."""
    logits = rng.standard_normal((frames, 6))
    logits[:, BLANK] += loudness / 2
    places = np.sort(rng.choice(frames, len(labels), replace=False))
    logits[places, labels] += loudness
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("loudness", [0.0, 2.0, 6.0])
@pytest.mark.parametrize("seed", range(12))
def test_alignment_is_that_of_a_full_search(seed, loudness, monkeypatch):
    """Whether the transcript fits or not, with stored bands and pruning every few frames."""
    monkeypatch.setattr(alignment, "BLOCK", 8)
    monkeypatch.setattr(alignment, "PRUNE", 3)
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(40, 120))
    labels = rng.integers(1, 6, int(rng.integers(1, frames // 3))).tolist()
    values = spoken(rng, labels, frames, loudness)
    search = alignment._search
    for factor in (0.01, 1):  # the search begins with a narrow or a wide band
        monkeypatch.setattr(
            alignment, "_search", lambda e, t, bound, by=factor: search(e, t, bound * by)
        )
        for changed in (labels, labels[::-1], labels[: len(labels) // 2 + 1]):
            found = align(values, changed)
            for span, expected in zip(found, full_search(values, changed), strict=True):
                assert span[:2] == expected[:2]
                assert span[2] == pytest.approx(expected[2], rel=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_wildcards_take_what_the_text_lacks(seed, monkeypatch):
    monkeypatch.setattr(alignment, "BLOCK", 8)
    monkeypatch.setattr(alignment, "PRUNE", 3)
    monkeypatch.setattr(alignment, "WILDCARD_LOSS", 0.0)
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, 16).tolist()
    values = spoken(rng, labels, 90, 8.0)
    partial = [WILDCARD, *labels[4:8], WILDCARD, *labels[12:]]
    expected = full_search(values, partial)
    found = align(values, partial)

    def total(spans):
        taken = np.zeros(len(values)) - np.inf
        for (start, end, _), label in zip(spans, partial):
            column = values.max(axis=1) if label == WILDCARD else values[:, label]
            taken[start:end] = column[start:end]
        return np.where(taken == -np.inf, values[:, BLANK], taken).sum()

    # Several paths are equally good, as a wildcard takes blanks, too.
    assert total(found) == pytest.approx(total(expected))


def test_frames_that_words_explain_equally_well_are_the_words():
    certain = np.full((12, 4), -30.0)
    for frame, unit in enumerate([0, 3, 1, 1, 0, 2, 2, 0, 3, 3, 0, 0]):
        certain[frame, unit] = 0.0
    star, one, two, last = align(certain, [WILDCARD, 1, 2, WILDCARD])
    assert (one[:2], two[:2]) == ((2, 4), (5, 7))
    assert star[:2] == (1, 2) and last[:2] == (8, 10) and star[2] == last[2] == 1.0


def test_units_of_probability_zero_have_a_path():
    values = np.full((9, 4), -np.inf)
    values[:, 0] = 0.0
    assert len(align(values, [1, 2, 2, 3])) == 4


def test_too_few_frames_and_no_labels():
    assert frames_needed([1, 1, 2, 2, 2]) == 8
    with pytest.raises(UserError, match="7 frames for a transcript that needs 8"):
        align(random_log_probabilities(0, 7, 3), [1, 1, 2, 2, 2])
    assert align(random_log_probabilities(0, 3, 3), []) == []
    with pytest.raises(UserError, match="0 frames"):
        align(np.empty((0, 3)), [1])


def test_words_from_letters_pieces_and_tokens():
    units = [Span("H", 2, 3, 0.5), Span("I", 5, 8, 0.25), Span("|", 8, 9, 1.0)]
    word, last = group_words([*units, Span("A", 12, 13, 1.0)], Spelling.LETTERS)
    assert (word.text, word.start, word.end, last) == ("HI", 2, 8, Span("A", 12, 13, 1.0))
    assert word.score == pytest.approx((0.5 * 0.25**3) ** 0.25)
    pieces = [Span("▁HI", 0, 1, 1.0), Span("▁", 1, 2, 1.0), Span("YO", 2, 3, 1.0)]
    grouped = group_words([*pieces, Span("U", 3, 4, 1.0)], Spelling.PIECES)
    assert [(w.text, w.start, w.end) for w in grouped] == [("HI", 0, 1), ("YOU", 1, 4)]
    assert [w.text for w in group_words(units[:2], Spelling.TOKENS)] == ["H", "I"]


def test_textgrid_is_contiguous_and_doubles_quotes():
    text = textgrid({"words": [(0.02, 0.5, 'say "A"'), (0.5, 0.75, "B")], "none": []}, 1.0)
    assert 'text = "say ""A"""' in text and "size = 2" in text
    for tier in text.split("item [")[2:]:
        bounds = [float(x) for x in re.findall(r"xm(?:in|ax) = ([\d.]+)", tier)][2:]
        assert bounds[0] == 0.0 and bounds[-1] == 1.0
        assert bounds[1:-1:2] == bounds[2::2]
    assert fill_gaps([(0.0, 1.0, "A")], 1.0) == [(0.0, 1.0, "A")]
    assert fill_gaps([], 1.0) == [(0.0, 1.0, "")]


@pytest.mark.parametrize("seed", range(10))
def test_the_greedy_path_is_the_alignment_of_what_it_spells(seed):
    values = random_log_probabilities(seed, 40, 7)
    values[:, 1:4] -= 100  # special symbols
    path = values.argmax(axis=1)
    found = list(path_units(path, values.max(axis=1), LETTERS))
    ids = LETTERS.encode(" ".join(span.text for span in found))
    expected = align(values, ids)
    assert [(s.start, s.end) for s in found] == [(start, end) for start, end, _ in expected]
    assert [s.score for s in found] == pytest.approx([score for *_, score in expected])


def test_special_symbols_and_empty_paths():
    path = np.array([1, 0, 5, 5, 2, 3])
    found = list(path_units(path, np.log(np.array([1, 1, 0.5, 0.125, 1, 0.3])), LETTERS))
    assert [(s.text, s.start, s.end) for s in found] == [("A", 2, 4), ("<unk>", 5, 6)]
    assert [s.score for s in found] == pytest.approx([0.25, 0.3])
    assert list(path_units(path[:0], np.empty(0), LETTERS)) == []


def test_a_lexicons_words_on_a_path():
    path = np.array([0, 5, 0, 6, 4, 4, 0, 4, 5, 5, 4, 0])
    scores = np.log(np.linspace(0.1, 0.9, 12))
    first, second = path_words(path, scores, ["AB", "A"], [4, 10], [BLANK, 4])
    assert (first.text, first.start, first.end) == ("AB", 1, 4)
    assert (second.text, second.start, second.end) == ("A", 8, 10)
    assert first.score == pytest.approx(math.exp((scores[1] + scores[3]) / 2))
    (word,) = path_words(path, scores, ["PAUSE"], [5], [BLANK, 4, 5, 6])
    assert (word.start, word.end) == (5, 6)
