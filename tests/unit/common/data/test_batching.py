from collections import Counter

import numpy as np
import pytest

from common.data.batching import BatchPlan, Geometry, token_budget_batches
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE
from wav2vec2.feature_extractor import frame_count
from wav2vec2.inference.batches import padding_share, sorted_batches

LENGTHS = np.random.default_rng(0).integers(1_000, 30_000, size=500).tolist()


def plan(lengths=LENGTHS, max_tokens=100_000, seed=1, **geometry):
    return BatchPlan(
        lengths, max_tokens=max_tokens, seed=seed, geometry=Geometry(**geometry), flags="FLAGS"
    )


def test_every_utterance_once_longest_first_within_the_budget():
    batches = token_budget_batches(LENGTHS, 100_000, seed=1)
    assert sorted(n for batch in batches for n in batch) == list(range(len(LENGTHS)))
    longest = [max(LENGTHS[n] for n in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, length in zip(batches, longest):
        assert len(batch) * length <= 100_000
        assert len(batch) < 8 or len(batch) % 8 == 0


def test_batches_are_as_full_as_their_size_rule_allows():
    batches = token_budget_batches(LENGTHS, 100_000, seed=1)
    for batch, following in zip(batches, batches[1:]):
        length = max(LENGTHS[n] for n in batch)
        larger = len(batch) + (8 if len(batch) >= 8 else 1)
        if sum(map(len, batches[batches.index(following) :])) >= larger - len(batch):
            assert larger * length > 100_000 or (larger > 8 and larger % 8)


def test_ties_are_random_by_seed():
    equal = [1000] * 100
    one, two = (token_budget_batches(equal, 10_000, seed) for seed in (1, 2))
    assert one != two and one == token_budget_batches(equal, 10_000, 1)


def test_an_utterance_longer_than_the_budget():
    with pytest.raises(ValueError, match="500 samples cannot hold an utterance of 1000"):
        token_budget_batches([1000], 500, seed=1)


def test_composition_is_fixed_and_order_shuffled():
    p = plan(concat=3)
    orders = [p.epoch_order(epoch) for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert plan(concat=3).groups == p.groups
    assert plan(concat=3).epoch_order(1) == orders[1]
    assert plan(concat=3, seed=2).epoch_order(1) != orders[1]


def test_groups_are_neighbours_in_length():
    p = plan(concat=4)
    tops = [[max(LENGTHS[n] for n in batch) for batch in group] for group in p.groups]
    flat = [length for group in tops for length in group]
    assert flat == sorted(flat, reverse=True)
    assert all(len(group) == 4 for group in p.groups)


@pytest.mark.parametrize(("ranks", "concat", "accumulate"), [(1, 1, 1), (2, 1, 3), (3, 2, 2)])
def test_ranks_share_an_epoch(ranks, concat, accumulate):
    """Equal steps, no group twice, and what is left out is less than one update."""
    p = plan(ranks=ranks, concat=concat, accumulate=accumulate)
    shares = [list(p.requests(5, rank)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {p.updates_per_epoch * accumulate}
    seen = Counter(request.sub_batches for share in shares for request in share)
    assert set(seen.values()) == {1}
    assert p.dropped_batches >= 0
    assert len(p.groups) - len(seen) < ranks * accumulate
    assert sorted(r.index for share in shares for r in share) == list(range(len(seen)))


def test_geometry_changes_who_takes_a_group_never_which_update_it_is_in():
    """2 processes x 3 accumulated, and 1 x 6: the same groups, keys and updates."""
    one, two = plan(accumulate=6), plan(ranks=2, accumulate=3)
    first = list(one.requests(0))
    shares = [list(two.requests(0, rank)) for rank in range(2)]
    for update in range(one.updates_per_epoch):
        alone = {(r.index, r.sub_batches) for r in first[6 * update : 6 * update + 6]}
        shared = {
            (r.index, r.sub_batches) for share in shares for r in share[3 * update : 3 * update + 3]
        }
        assert alone == shared


def test_resume_is_arithmetic():
    p = plan(ranks=2, accumulate=2)
    whole = list(p.requests(3, 1))
    assert list(p.requests(3, 1, start_update=4)) == whole[8:]


def test_sub_batches_are_numbered_through_the_epoch():
    p = plan(concat=2)
    numbers = [r.sub_batch_number(j) for r in p.requests(0) for j in range(2)]
    assert numbers == list(range(len(numbers)))


def test_too_little_audio_for_an_update():
    with pytest.raises(UserError, match="FLAGS: .* too few for one update, which takes 64"):
        plan(lengths=[1000] * 20, ranks=8, concat=8)


def speech_lengths(count, generator):
    """Frames of utterances as long as LibriSpeech's: 1 to 35 s, most between 2 and 16."""
    seconds = np.clip(generator.lognormal(mean=1.9, sigma=0.7, size=count), 1.0, 35.0)
    return [frame_count(int(s * 16_000), BASE.conv_layers) for s in seconds]


def test_sorted_batches_of_mixed_lengths_are_full_and_hardly_padded():
    lengths = speech_lengths(2_600, np.random.default_rng(1))
    assert min(lengths) < 60 and max(lengths) > 1_500
    batches = sorted_batches(lengths, 8)
    assert sorted(n for batch in batches for n in batch) == list(range(2_600))
    assert len(batches) <= 2_600 / 8 + 5  # the bound on padding ends few of them early
    assert padding_share(lengths, batches) < 0.01
    in_file_order = [list(range(start, start + 8)) for start in range(0, 2_600, 8)]
    assert padding_share(lengths, in_file_order) > 0.4


# Utterances of the fine-tuning recipes: share of padding at most, and of the batches some of whose
# rows have fewer frames than others.
@pytest.mark.parametrize(
    "hours, count, padding, masked",
    [(960, 281_000, 0.0002, 0.2), (100, 28_500, 0.002, 0.8), (10, 2_600, 0.015, 1.0)],
)
def test_fine_tuning_batches_are_hardly_padded(hours, count, padding, masked):
    frames = speech_lengths(count, np.random.default_rng(1))
    samples = [320 * n + 80 for n in frames]
    batches = token_budget_batches(samples, 3_200_000, seed=1)
    assert padding_share(frames, batches) < padding
    uneven = sum(len({frames[n] for n in batch}) > 1 for batch in batches)
    print(f"{hours} h: {padding_share(frames, batches):.2%} padding, {uneven / len(batches):.0%}")
    assert uneven / len(batches) <= masked


@pytest.mark.parametrize("size", [1, 8, 32])
@pytest.mark.parametrize("count", [1, 7, 40, 200])
def test_padding_is_bounded_however_few_utterances_there_are(count, size):
    for seed in range(20):
        lengths = speech_lengths(count, np.random.default_rng(seed))
        batches = sorted_batches(lengths, size)
        assert sorted(n for batch in batches for n in batch) == list(range(count))
        assert max(map(len, batches)) <= size
        for batch in batches:
            longest = max(lengths[n] for n in batch)
            assert sum(longest - lengths[n] for n in batch) <= 0.1 * longest * len(batch)
        assert padding_share(lengths, batches) <= 0.1
    assert sorted_batches([10] * 9, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert padding_share([0, 0], sorted_batches([0, 0], 2)) == 0
