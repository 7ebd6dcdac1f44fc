import numpy as np
import pytest
import torch

from tasks.pretraining import PretrainingRecipe
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Masking
from wav2vec2.masking import _covered, draw_channel_masks, draw_time_masks


def time_masks(frames, seed=0, **options):
    options = {"probability": 0.65, "span": 10, "padded": False, **options}
    return draw_time_masks(frames, generator=np.random.default_rng(seed), **options)


def runs(masked):
    """Lengths of the runs of neighbouring masked frames."""
    return [len(run) for run in np.split(masked, np.flatnonzero(np.diff(masked) != 1) + 1)]


def test_spans_that_overlap_are_empty_or_reach_beyond_the_end():
    generator = np.random.default_rng(0)
    for _ in range(200):
        positions, spans = int(generator.integers(2, 60)), int(generator.integers(1, 12))
        first = generator.integers(0, positions + 5, size=spans)
        lengths = generator.integers(0, 15, size=spans)
        expected = np.zeros(positions, dtype=bool)
        for start, length in zip(first, lengths):
            expected[start : start + length] = True
        assert np.array_equal(_covered(positions, first, first + lengths), expected)


def test_spans_have_their_length_and_rows_their_share():
    counts = []
    for seed in range(200):
        (row,) = time_masks([400], seed)
        assert (np.diff(row) > 0).all() and row[0] >= 0 and row[-1] < 400
        assert min(runs(row)) >= 10
        counts.append(len(row))
    # 26 or 27 of 390 possible starts, each covering 10 frames: 1 - (1 - 10/400)^26 of the frames.
    expected = 400 * (1 - (1 - 10 / 400) ** 26)
    assert np.mean(counts) == pytest.approx(expected, rel=0.03)


def test_number_of_spans_is_rounded_at_random():
    """0.65 * 40 / 10 = 2.6 spans of one frame each: 2 or 3, 2.6 on average."""
    counts = [len(time_masks([40], seed, probability=0.065, span=1)[0]) for seed in range(2000)]
    assert set(counts) == {2, 3}
    assert np.mean(counts) == pytest.approx(2.6, abs=0.04)


def test_rows_of_a_sub_batch_share_the_rounding_but_padded_rows_do_not():
    """Thinning equalises the rows, so the rounding of each shows only in the smallest count."""

    def mean_count(padded):
        options = {"probability": 0.065, "span": 1, "padded": padded}
        return np.mean([len(time_masks([40] * 8, seed, **options)[0]) for seed in range(1000)])

    assert mean_count(padded=False) == pytest.approx(2.6, abs=0.05)
    assert mean_count(padded=True) == pytest.approx(2 + 0.6**8, abs=0.05)


def test_all_rows_are_thinned_to_the_fewest():
    for seed in range(50):
        rows = time_masks([300] * 6, seed)
        assert len({len(row) for row in rows}) == 1
        assert all((np.diff(row) > 0).all() for row in rows)


def test_at_least_two_spans():
    (row,) = time_masks([60], probability=0.001)
    assert len(row) >= 11  # two different starts


def test_starts_reach_from_the_first_to_the_last_but_one_possible():
    """Starts are drawn from 0 ... T - span - 1."""
    seen = set()
    for seed in range(3000):
        (row,) = time_masks([20], seed, probability=0.1, span=10, min_spans=1)
        if len(row) == 10:
            seen.add(int(row[0]))
    assert seen == set(range(10))


def test_starts_are_without_replacement():
    for seed in range(300):
        (row,) = time_masks([12], seed, probability=0.3, span=1, min_spans=2)
        assert len(row) >= 3  # floor(3.6 + u) different starts of one frame


def test_short_rows_are_never_masked_entirely():
    for frames in range(3, 25):
        for seed in range(60):
            (row,) = time_masks([frames], seed)
            assert 2 <= len(row) < frames
            assert row[-1] < frames


def test_too_short_rows_have_nothing_to_mask():
    assert len(time_masks([1])[0]) == 0
    assert len(time_masks([2])[0]) <= 1


@pytest.mark.parametrize(
    ("distribution", "other", "mean"),
    [("uniform", 4, 12.0), ("normal", 2, 10.0), ("poisson", 0, 10.0)],
)
def test_span_distributions(distribution, other, mean):
    """With one span a row, the number of masked frames is the span's length."""
    lengths = [
        len(
            time_masks(
                [5000],
                seed,
                probability=1e-9,
                distribution=distribution,
                other=other,
                min_spans=1,
            )[0]
        )
        for seed in range(1500)
    ]
    assert np.mean(lengths) == pytest.approx(mean, rel=0.05)
    assert len(set(lengths)) > 5
    if distribution == "uniform":
        assert (min(lengths), max(lengths)) == (4, 20)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("span", [1, 2, 5, 10, 40])
@pytest.mark.parametrize(
    ("distribution", "other"),
    [("static", 0), ("uniform", 1), ("uniform", "longest"), ("normal", 0), ("normal", 9)]
    + [("poisson", 0)],
)
def test_every_row_has_two_masked_frames_and_one_that_is_not(distribution, other, span, padded):
    """Whatever the spans: a masked frame without another one has no distractors."""
    other = 2 * span if other == "longest" else other
    for probability in (1e-6, 0.3, 1.0):
        for shortest in (3, 4, 5, 8, 13, 60):
            frames = [shortest, shortest + 7, 30 + shortest] if padded else [shortest] * 3
            for seed in range(20):
                rows = time_masks(
                    frames,
                    seed,
                    probability=probability,
                    span=span,
                    distribution=distribution,
                    other=other,
                    padded=padded,
                )
                assert len({len(row) for row in rows}) == 1
                for row, length in zip(rows, frames):
                    assert 2 <= len(row) < length
                    assert (np.diff(row) > 0).all() and row[0] >= 0 and row[-1] < length


def test_added_frames_are_drawn_only_where_they_are_missing():
    """Spans of one or no frame, once in a while at the same place: the rest stays as drawn."""
    options = {"probability": 1e-6, "span": 1, "distribution": "poisson"}
    added = 0
    for seed in range(200):
        (row,) = time_masks([50], seed, **options)
        (drawn,) = time_masks([50], seed, min_masked=0, **options)
        assert set(drawn) <= set(row)
        assert len(row) == max(2, len(drawn))
        added += len(row) > len(drawn)
    assert 0 < added < 200


def test_static_masks_are_those_of_earlier_versions():
    """A golden draw: another one would make a resumed run go on with other masks."""
    rows = time_masks([24, 24], 1, probability=0.3, span=4)
    assert [row.tolist() for row in rows] == [
        [14, 15, 16, 17, 19, 20, 21, 22],
        [2, 3, 4, 5, 16, 17, 18, 19],
    ]


def test_pretraining_refuses_to_mask_nothing():
    with pytest.raises(UserError, match="--mask_prob 0: .*above 0"):
        PretrainingRecipe(masking=Masking(mask_prob=0.0)).build_task(torch.device("cpu"))


def test_probability_zero_masks_nothing():
    assert [len(row) for row in time_masks([50, 60], probability=0.0)] == [0, 0]


def test_same_generator_same_masks():
    for a, b in zip(time_masks([99] * 3, 5), time_masks([99] * 3, 5)):
        assert np.array_equal(a, b)


def test_channel_masks_of_the_recipes():
    """prob 0.1, span 64, 768 channels: 1.2 + u spans, so 1 or 2; rows are thinned alike."""
    spans = []
    for seed in range(300):
        mask = draw_channel_masks(
            4, 768, probability=0.1, span=64, generator=np.random.default_rng(seed)
        )
        assert mask.shape == (4, 768)
        counts = mask.sum(1)
        assert len(set(counts)) == 1 and 64 <= counts[0] <= 128
        spans.append(counts[0] > 64)
    assert 0.05 < np.mean(spans) < 0.3  # two spans in a fifth of draws, thinned if rows overlap


def test_channel_masks_may_be_empty():
    counts = [
        int(
            draw_channel_masks(
                1, 768, probability=0.01, span=64, generator=np.random.default_rng(seed)
            ).sum()
        )
        for seed in range(200)
    ]
    assert set(counts) == {0, 64}
    none = draw_channel_masks(2, 768, probability=0.0, span=64, generator=np.random.default_rng(0))
    assert not none.any()
