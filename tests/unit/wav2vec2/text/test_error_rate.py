"""Alignment of hypothesis and reference."""

import itertools
import random

import editdistance

from wav2vec2.text.error_rate import pair_words


def check(hypothesis, reference):
    """The pairs tell both sides, in as few errors as there can be."""
    pairs = pair_words(hypothesis, reference)
    assert [word for word, _ in pairs if word is not None] == list(reference)
    assert [other for _, other in pairs if other is not None] == list(hypothesis)
    assert (None, None) not in pairs
    assert sum(word != other for word, other in pairs) == editdistance.eval(hypothesis, reference)


def test_all_short_sequences():
    sequences = [s for n in range(5) for s in itertools.product("AB", repeat=n)]
    for hypothesis, reference in itertools.product(sequences, sequences):
        check(list(hypothesis), list(reference))


def test_random_sentences():
    draw = random.Random(1)
    for _ in range(200):
        reference = draw.choices("ABCDEFG", k=draw.randrange(30))
        hypothesis = [w for w in reference if draw.random() > 0.2]
        for _ in range(draw.randrange(5)):
            hypothesis.insert(draw.randrange(len(hypothesis) + 1), draw.choice("ABCXYZ"))
        check(hypothesis, reference)


def test_kinds_of_errors():
    pairs = pair_words(["A", "CAT", "SAT", "THERE"], ["THE", "CAT", "SAT", "ON"])
    assert pairs == [("THE", "A"), ("CAT", "CAT"), ("SAT", "SAT"), ("ON", "THERE")]
    assert pair_words(["B"], ["A", "B"]) == [("A", None), ("B", "B")]
    assert pair_words(["A", "B"], ["B"]) == [(None, "A"), ("B", "B")]
    assert pair_words(["A"], []) == [(None, "A")]
