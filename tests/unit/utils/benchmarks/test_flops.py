"""The formula against torch's counter, in a forward and backward pass of the plain model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.benchmarks.flops import pretraining_flops
from utils.benchmarks.step_worker import flop_counter
from wav2vec2.config import BASE, MINI, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.contrastive import draw_distractors
from wav2vec2.feature_extractor import frame_count
from wav2vec2.masking import draw_time_masks
from wav2vec2.pretraining import PretrainingBatch, SubBatch, Wav2Vec2ForPretraining

SAMPLES = 16_000
PLAIN = replace(MINI, heads=6)
# Base's widths with fewer layers: two before, two shortened, one after.
BASE_WIDTHS = replace(BASE, layers=5, hourglass=Hourglass(2, 2, 4, 1))
LINEAR = replace(MINI, hourglass=Hourglass(1, 2, 3, 1, "linear"), position_kernel=31)


def sub_batch(architecture, rows, seed):
    generator = np.random.default_rng(seed)
    frames = int(frame_count(SAMPLES, architecture.conv_layers))
    drawn = [frames] * rows
    masked = draw_time_masks(drawn, probability=0.65, span=5, generator=generator, padded=False)
    count = len(masked[0])
    distractors = torch.tensor(draw_distractors(rows, count, 10, generator))
    return SubBatch(torch.tensor(np.stack(masked)), distractors, noise_seed=seed)


def counted(architecture, sub_batches, kept, regularisation):
    model = Wav2Vec2ForPretraining.from_config(architecture, regularisation, ContrastiveObjective())
    model.wav2vec2.feature_extractor.requires_grad_(regularisation.feature_grad_mult > 0)
    rows = sum(len(s.masked) for s in sub_batches)
    batch = PretrainingBatch(0.1 * torch.randn(rows, SAMPLES), sub_batches)
    with flop_counter() as counter:
        model.train()(batch, temperature=2.0, kept_layers=kept).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "architecture, kept",
    [
        (PLAIN, None),
        (PLAIN, [True, False, True, False]),
        (replace(MINI, hourglass=Hourglass(1, 2, 2, 1)), [True, False, True, True]),
        (LINEAR, None),
        (BASE_WIDTHS, [False, True, True, True, True]),
    ],
    ids=["plain", "skipped layers", "hourglass", "linear", "base"],
)
@pytest.mark.parametrize("grad_mult", [0.1, 0.0])
def test_formula_is_what_torch_counts(architecture, kept, grad_mult):
    sub_batches = [sub_batch(architecture, rows, seed) for seed, rows in enumerate((2, 1))]
    regularisation = Regularisation(feature_grad_mult=grad_mult)
    formula = pretraining_flops(
        architecture,
        SAMPLES,
        [tuple(s.masked.shape) for s in sub_batches],
        kept_layers=kept,
        extractor_learns=grad_mult > 0,
    )
    found = counted(architecture, sub_batches, kept, regularisation)
    assert formula == found
