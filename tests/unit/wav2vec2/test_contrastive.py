import math

import numpy as np
import pytest
import torch

from wav2vec2.contrastive import (
    chance_loss,
    contrastive_logits,
    contrastive_loss,
    count_correct,
    draw_distractors,
    keep_equal,
)


def test_distractors_are_other_frames_of_the_row_uniformly():
    drawn = draw_distractors(3, 7, 4000, np.random.default_rng(0))
    assert drawn.shape == (3, 7, 4000)
    for frame in range(7):
        values, counts = np.unique(drawn[:, frame], return_counts=True)
        assert values.tolist() == [other for other in range(7) if other != frame]
        assert counts == pytest.approx(np.full(6, 2000), rel=0.1)


def test_one_masked_frame_has_no_distractors():
    with pytest.raises(ValueError, match="1 masked"):
        draw_distractors(1, 1, 5, np.random.default_rng(0))


def slow_logits(predictions, targets, codes, distractors, temperature, keep=False):
    """The vectors gathered one by one, as the paper writes it."""
    rows, masked, count = distractors.shape
    logits = torch.empty(rows, masked, 1 + count, dtype=predictions.dtype)
    for b in range(rows):
        for t in range(masked):
            for k in range(1 + count):
                other = t if k == 0 else int(distractors[b, t, k - 1])
                cosine = torch.cosine_similarity(predictions[b, t], targets[b, other], dim=0)
                logits[b, t, k] = cosine / temperature
                if k > 0 and not keep and torch.equal(codes[b, t], codes[b, other]):
                    logits[b, t, k] = -math.inf
    return logits


def test_logits_against_the_gathered_vectors():
    torch.manual_seed(0)
    predictions = torch.randn(2, 9, 5, dtype=torch.float64)
    codes = torch.randint(0, 2, (2, 9, 2))  # few codes: many distractors equal the target
    codebook = torch.randn(2, 2, 5, dtype=torch.float64)
    targets = codebook[0][codes[..., 0]] + codebook[1][codes[..., 1]]
    distractors = torch.tensor(draw_distractors(2, 9, 6, np.random.default_rng(0)))
    logits = contrastive_logits(predictions, targets, codes, distractors, 0.1)
    expected = slow_logits(predictions, targets, codes, distractors, 0.1)
    assert torch.isinf(expected).any() and torch.isfinite(expected[..., 1:]).any()
    torch.testing.assert_close(logits, expected)
    slow_loss = -expected.log_softmax(-1)[..., 0].sum()
    torch.testing.assert_close(contrastive_loss(logits), slow_loss)
    kept = slow_logits(predictions, targets, codes, distractors, 0.1, keep=True)
    torch.testing.assert_close(keep_equal(logits), kept)


def test_a_single_code_has_no_loss_unless_equal_distractors_are_kept():
    predictions, targets = torch.randn(1, 5, 3), torch.ones(1, 5, 3)
    codes = torch.zeros(1, 5, 2, dtype=torch.long)
    distractors = torch.tensor(draw_distractors(1, 5, 4, np.random.default_rng(0)))
    logits = contrastive_logits(predictions, targets, codes, distractors, 0.1)
    assert float(contrastive_loss(logits)) == 0
    chance = 5 * math.log(5)
    assert float(contrastive_loss(keep_equal(logits))) == pytest.approx(chance)
    assert float(chance_loss(keep_equal(logits))) == pytest.approx(chance)


def test_chance_loss_is_that_of_equal_candidates():
    logits = torch.full((2, 3, 5), 0.7, dtype=torch.float64)
    logits[0, 1, 2:] = -math.inf
    torch.testing.assert_close(chance_loss(logits), contrastive_loss(logits))
    assert float(chance_loss(logits)) == pytest.approx(5 * math.log(5) + math.log(2))


def test_chance_is_log_of_the_candidates():
    logits = torch.zeros(1, 50, 101)
    assert math.isclose(contrastive_loss(logits) / 50 / math.log(2), math.log2(101), rel_tol=1e-6)


def test_equal_logits_count_as_wrong():
    logits = torch.tensor([[[1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [1.0, 1.0, 0.0]]])
    assert count_correct(logits) == 2  # the second, and the fourth: not all are equal there


def test_half_precision_is_widened():
    x = torch.randn(1, 4, 8).bfloat16()
    distractors = torch.tensor(draw_distractors(1, 4, 3, np.random.default_rng(0)))
    codes = torch.arange(4).view(1, 4, 1)
    assert contrastive_logits(x, x, codes, distractors, 0.1).dtype == torch.float32
