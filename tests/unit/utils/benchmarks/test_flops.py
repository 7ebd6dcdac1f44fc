"""The written formula against torch's counter on a real update's forward and backward pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.benchmarks.flops import pretraining_flops
from utils.benchmarks.step_worker import flop_counter
from wav2vec2 import feature_extractor
from wav2vec2.config import BASE, MINI, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.contrastive import draw_distractors
from wav2vec2.feature_extractor import frame_count
from wav2vec2.kernels import attention, convolution
from wav2vec2.masking import draw_time_masks
from wav2vec2.pretraining import PretrainingBatch, SubBatch, Wav2Vec2ForPretraining

SAMPLES = 16_000
PLAIN = replace(MINI, heads=6)
# Base' own widths, but for the number of layers: two before, two shortened, one after.
BASE_WIDTHS = replace(BASE, layers=5, hourglass=Hourglass(2, 2, 4, 1))
LINEAR = replace(MINI, hourglass=Hourglass(1, 2, 3, 1, "linear"), position_kernel=31)


def fold_without_products(windows, weight, gain, offset, eps, valid):
    """As convolution.fold_group_norm, with the variance of what the convolution gives."""
    assert valid is None
    centred = windows - windows.mean(dim=1, keepdim=True)
    outputs = (centred[:, :, None] * weight[:, 0]).sum(dim=-1)  # [batch, steps, out]
    variance = outputs.var(dim=1, unbiased=False)
    kernels = weight[:, 0] * (gain * (variance + eps).rsqrt())[..., None]
    return centred, kernels, offset.expand(kernels.shape[:2])


@pytest.fixture(autouse=True)
def nothing_beside(monkeypatch):
    """The formula counts neither what is computed again for the backward pass, first convolution
    and attention weights of our products, nor the statistics of group norm."""
    monkeypatch.setattr(convolution, "kernel_for", lambda *_: "conv1d")
    monkeypatch.setattr(convolution, "fold_group_norm", fold_without_products)
    monkeypatch.setattr(feature_extractor, "checkpoint", lambda run, *args, **_: run(*args))
    monkeypatch.setattr(attention, "kernel_for", lambda *_: "torch")


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
    ids=["plain", "layers left out", "hourglass", "linear", "base"],
)
@pytest.mark.parametrize("grad_mult", [0.1, 0.0])
def test_formula_is_what_torch_counts(architecture, kept, grad_mult):
    sub_batches = [sub_batch(architecture, rows, seed) for seed, rows in enumerate((2, 1))]
    regularisation = Regularisation(feature_grad_mult=grad_mult)
    (channels, _, _), *_ = architecture.conv_layers
    steps = 3 * frame_count(SAMPLES, architecture.conv_layers[:1])
    bias_as_a_tap = (2 if grad_mult > 0 else 1) * 2 * steps * channels
    formula = pretraining_flops(
        architecture,
        SAMPLES,
        [tuple(s.masked.shape) for s in sub_batches],
        kept_layers=kept,
        extractor_learns=grad_mult > 0,
    )
    found = counted(architecture, sub_batches, kept, regularisation)
    assert formula == found - bias_as_a_tap
