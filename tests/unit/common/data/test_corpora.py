"""Batch plans of several corpora."""

from collections import Counter

import numpy as np
import pytest

from common.data.batching import BatchPlan, Geometry

SIZES = [300, 120]
LENGTHS = np.random.default_rng(0).integers(1_000, 30_000, size=sum(SIZES)).tolist()


def plan(passes=(1.0, 1.0), seed=1, **geometry):
    return BatchPlan(
        LENGTHS,
        max_tokens=60_000,
        seed=seed,
        geometry=Geometry(**geometry),
        flags="",
        corpora=list(zip(SIZES, passes)),
    )


def corpus_of(request):
    (corpus,) = {
        int(n >= SIZES[0]) for sub_batch in request.sub_batches for n in sub_batch
    }  # never two in a group
    return corpus


def test_a_group_is_of_one_corpus_and_says_which():
    requests = list(plan(concat=3).requests(0))
    assert {corpus_of(r) for r in requests} == {0, 1}
    assert all(corpus_of(r) == r.corpus for r in requests)


def test_as_they_are_every_epoch_has_each_group_once():
    p = plan(concat=2)
    for epoch in range(3):
        assert sorted(p.epoch_order(epoch)) == list(range(len(p.groups)))


@pytest.mark.parametrize("passes", [(0.4, 2.5), (1.0, 0.3), (0.7, 1.75)])
def test_passes_are_kept_and_each_group_has_its_turn_before_any_has_another(passes):
    p = plan(passes)
    available = Counter(p.corpus_of_group)
    seen = Counter()
    for epoch in range(7):
        order = p.epoch_order(epoch)
        taken = Counter(p.corpus_of_group[g] for g in order)
        assert taken == {c: round(passes[c] * available[c]) for c in available}
        seen.update(order)
        for corpus in available:
            counts = [seen[g] for g in range(len(p.groups)) if p.corpus_of_group[g] == corpus]
            assert max(counts) - min(counts) <= 1


def test_an_epoch_is_a_function_of_seed_and_epoch_alone():
    p, same, other = plan((0.4, 2.5)), plan((0.4, 2.5)), plan((0.4, 2.5), seed=2)
    late = same.epoch_order(5)
    assert [p.epoch_order(epoch) for epoch in range(6)][5] == late  # whatever came before
    assert other.epoch_order(5) != late
    halves = plan((0.4, 2.5), ranks=2)
    asked = [list(halves.requests(5, rank)) for rank in (0, 1)]
    groups = [r.sub_batches for pair in zip(*asked) for r in pair]
    assert groups == [r.sub_batches for r in p.requests(5)][: len(groups)]


def test_a_corpus_too_small_for_a_group_is_told():
    p = BatchPlan(
        [20_000] * 40,
        max_tokens=40_000,
        seed=1,
        geometry=Geometry(concat=4),
        flags="",
        corpora=[(36, 1.0), (4, 1.0)],
    )
    assert p.empty_corpora == [1]
    assert {n for n in p.unused if n >= 36} == {36, 37, 38, 39}
