"""How sure a transcript is."""

import itertools
import math

import pytest
import torch

from wav2vec2.decoding.greedy import GreedyDecoder, Hypothesis
from wav2vec2.inference.scoring import confidence
from wav2vec2.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["|", "A", "B"])
A, B = VOCABULARY.encode("A B")


def emissions(seed, frames):
    return torch.randn(frames, len(VOCABULARY), generator=torch.manual_seed(seed)).log_softmax(-1)


def slow(units, values):
    """The best of all paths, tried one by one."""
    best, found = -math.inf, None
    labels = VOCABULARY.encode(" ".join(units))
    for path in itertools.product({0, *labels}, repeat=len(values)):
        collapsed = [unit for unit, _ in itertools.groupby(path) if unit]
        total = sum(float(values[frame, unit]) for frame, unit in enumerate(path))
        if collapsed == labels and total > best:
            best = total
            own = [float(values[frame, unit]) for frame, unit in enumerate(path) if unit]
            found = math.exp(sum(own) / len(own))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_any_transcript(seed):
    values = emissions(seed, frames=5)
    for units in (["A"], ["B", "A"], ["A", "A"], ["A", "B", "|"]):
        found = confidence(Hypothesis(units, ""), values, VOCABULARY)
        assert found == pytest.approx(slow(units, values), rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_transcripts(seed):
    values = emissions(seed, frames=5)
    values[:, 1:4] -= 100  # special symbols, which no transcript shows
    hypothesis = GreedyDecoder(VOCABULARY)(values)
    found = confidence(hypothesis, values, VOCABULARY)
    if hypothesis.units:
        assert found == pytest.approx(slow(hypothesis.units, values), rel=1e-5)
    else:
        assert found is None


def test_none():
    assert confidence(Hypothesis([], ""), emissions(0, 3), VOCABULARY) is None
    assert confidence(Hypothesis([], ""), emissions(0, 0), VOCABULARY) is None
    assert confidence(Hypothesis(["A", "A"], ""), emissions(0, 2), VOCABULARY) is None
