from dataclasses import replace

import numpy as np
import pytest
import torch

from wav2vec2.config import MINI, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.contrastive import draw_distractors
from wav2vec2.encoder import draw_kept_layers
from wav2vec2.feature_extractor import frame_count
from wav2vec2.masking import draw_time_masks
from wav2vec2.pretraining import PretrainingBatch, SubBatch, Wav2Vec2ForPretraining

TINY = replace(
    MINI,
    conv_layers=((8, 10, 5), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 2, 2), (8, 2, 2)),
    dim=16,
    ffn_dim=32,
    position_kernel=8,
    position_groups=4,
    final_dim=8,
    codebook_entries=6,
    hourglass=Hourglass(1, 2, 2, 1),
)
NO_DROPOUT = Regularisation(dropout=0, dropout_input=0, attention_dropout=0, layerdrop=0)
SAMPLES = 8_000


def make_model(architecture=TINY, regularisation=NO_DROPOUT, objective=None):
    torch.manual_seed(0)
    objective = objective or ContrastiveObjective(distractors=7, dropout_features=0)
    return Wav2Vec2ForPretraining.from_config(architecture, regularisation, objective).double()


def make_sub_batch(rows: int, seed: int, samples: int = SAMPLES) -> SubBatch:
    generator = np.random.default_rng(seed)
    frames = [frame_count(samples, TINY.conv_layers)] * rows
    masked = draw_time_masks(frames, probability=0.65, span=4, generator=generator, padded=False)
    return SubBatch(
        masked=torch.tensor(np.stack(masked)),
        distractors=torch.tensor(draw_distractors(rows, len(masked[0]), 7, generator)),
        noise_seed=seed,
    )


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_concatenated_sub_batches_are_the_sum_of_single_ones(norm):
    """Same draws: losses and gradients of one batch of three sub-batches, and of one by one."""
    model = make_model(replace(TINY, extractor_norm=norm, conv_bias=norm == "layer")).train()
    torch.manual_seed(1)
    rows = [2, 3, 1]
    waveforms = torch.randn(sum(rows), SAMPLES, dtype=torch.float64)
    parts = [make_sub_batch(n, seed) for seed, n in enumerate(rows)]

    together = model(PretrainingBatch(waveforms, parts), temperature=1.5)
    together.loss.backward()
    whole = gradients(model)
    model.zero_grad()
    singles = []
    for part, waves in zip(parts, waveforms.split(rows)):
        output = model(PretrainingBatch(waves, [part]), temperature=1.5)
        output.loss.backward()
        singles.append(output)

    for name in ("loss", "contrastive_loss", "diversity_loss", "features_penalty", "targets"):
        total = sum(getattr(output, name) for output in singles)
        ours = torch.as_tensor(getattr(together, name), dtype=torch.float64)
        torch.testing.assert_close(ours, torch.as_tensor(total, dtype=torch.float64))
    assert together.prob_perplexity.item() == pytest.approx(
        sum(output.prob_perplexity.item() for output in singles), rel=1e-12
    )
    one_by_one = gradients(model)
    assert whole.keys() == one_by_one.keys()
    # A bias that softmax cancels has a gradient of rounding errors only, hence the floor.
    floor = 1e-6 * torch.stack([g.norm() for g in one_by_one.values()]).norm()
    for name, gradient in whole.items():
        difference = (gradient - one_by_one[name]).norm()
        assert difference <= 1e-9 * max(one_by_one[name].norm(), floor), name


def test_total_loss_is_the_sum_of_its_parts():
    """Against plain code: weights, the factor n, and the penalty on the raw extractor output."""
    objective = ContrastiveObjective(distractors=7, loss_weights=(0.1, 10.0), dropout_features=0)
    model = make_model(objective=objective).eval()
    waveforms = torch.randn(2, SAMPLES, dtype=torch.float64)
    part = make_sub_batch(2, 5)
    output = model(PretrainingBatch(waveforms, [part]), temperature=1.0)
    n = part.masked.numel()
    assert output.targets == n
    raw = model.wav2vec2.feature_extractor(waveforms)
    torch.testing.assert_close(output.features_penalty, 10.0 * n * (raw**2).mean())
    codes = 2 * TINY.codebook_entries
    torch.testing.assert_close(
        output.diversity_loss, 0.1 * n * (codes - output.prob_perplexity) / codes
    )
    torch.testing.assert_close(
        output.loss, output.contrastive_loss + output.diversity_loss + output.features_penalty
    )


def test_equal_distractors_count_where_the_objective_says_so():
    """With few codes: a higher loss, that of chance for candidates alike; metrics do not change."""
    waveforms = torch.randn(2, SAMPLES, dtype=torch.float64)
    batch = PretrainingBatch(waveforms, [make_sub_batch(2, 0)])
    architecture = replace(TINY, codebook_entries=2)  # four codes, so many distractors are equal
    outputs = []
    for keep in (False, True):
        objective = ContrastiveObjective(
            distractors=7, dropout_features=0, keep_equal_distractors=keep
        )
        outputs.append(make_model(architecture, objective=objective)(batch, temperature=2.0))
    paper, kept = outputs
    targets = paper.targets
    assert kept.contrastive_loss > paper.contrastive_loss
    assert kept.chance_loss.item() == pytest.approx(targets * np.log(8))
    assert paper.chance_loss < kept.chance_loss
    torch.testing.assert_close(kept.correct, paper.correct)
    difference = kept.contrastive_loss - paper.contrastive_loss
    torch.testing.assert_close(kept.loss - paper.loss, difference)


def test_penalty_gradient_is_scaled_by_the_gradient_multiplier():
    waveforms = torch.randn(2, SAMPLES, dtype=torch.float64)
    part = make_sub_batch(2, 5)
    found = []
    for factor in (1.0, 0.1):
        model = make_model(regularisation=replace(NO_DROPOUT, feature_grad_mult=factor)).eval()
        model(PretrainingBatch(waveforms, [part]), temperature=1.0).features_penalty.backward()
        found.append(model.wav2vec2.feature_extractor.conv_layers[0].conv.weight.grad)
    torch.testing.assert_close(found[1], 0.1 * found[0])


@pytest.mark.parametrize("padded", [False, True])
def test_penalty_gradient_against_plain_code(padded):
    """10 n times the mean square of the valid frames, its gradient times the multiplier."""
    model = make_model(regularisation=replace(NO_DROPOUT, feature_grad_mult=0.3)).train()
    waveforms = torch.randn(2, SAMPLES, dtype=torch.float64)
    samples = [SAMPLES, 5_000 if padded else SAMPLES]
    waveforms[1, samples[1] :] = 0
    parts = [make_sub_batch(1, row, n) for row, n in enumerate(samples)]
    batch = PretrainingBatch(waveforms, parts, torch.tensor(samples) if padded else None)
    model(batch, temperature=1.0).features_penalty.backward()
    found = gradients(model)
    model.zero_grad()
    for row, (n, part) in enumerate(zip(samples, parts)):
        raw = model.wav2vec2.feature_extractor(waveforms[row : row + 1, :n])
        (0.3 * 10.0 * part.masked.numel() * (raw**2).mean()).backward()
    expected = gradients(model)
    extractor = {n for n, _ in model.named_parameters() if "feature_extractor" in n}
    assert found.keys() == expected.keys() == extractor
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


def test_gradient_multiplier_zero_leaves_the_extractor_without_gradient():
    model = make_model(regularisation=replace(NO_DROPOUT, feature_grad_mult=0.0)).train()
    batch = PretrainingBatch(torch.randn(2, SAMPLES).double(), [make_sub_batch(2, 1)])
    model(batch, temperature=1.0).loss.backward()
    assert all(p.grad is None for p in model.wav2vec2.feature_extractor.parameters())
    assert model.wav2vec2.layer_norm.weight.grad is not None


def test_penalty_of_padded_rows_is_over_valid_frames():
    """Padded rows as sub-batches of one: each as if alone, which validation relies on."""
    model = make_model().eval()
    lengths = torch.tensor([SAMPLES, 5_000])
    waveforms = torch.randn(2, SAMPLES, dtype=torch.float64)
    waveforms[1, 5_000:] = 0
    parts = [make_sub_batch(1, 1), make_sub_batch(1, 2, 5_000)]
    together = model(PretrainingBatch(waveforms, parts, lengths), temperature=1.0)
    first = model(PretrainingBatch(waveforms[:1], parts[:1]), temperature=1.0)
    second = model(PretrainingBatch(waveforms[1:, :5_000], parts[1:]), temperature=1.0)
    torch.testing.assert_close(together.loss, first.loss + second.loss)
    torch.testing.assert_close(together.code_counts, first.code_counts + second.code_counts)
    assert together.correct == first.correct + second.correct


def test_masked_input_cannot_be_seen():
    """What lies under the mask changes the targets, never the context."""
    model = make_model().eval()
    trunk = model.wav2vec2
    frames = trunk.extract(torch.randn(1, SAMPLES).double(), None)
    mask = torch.zeros(frames.features.shape[:2], dtype=torch.bool)
    mask[:, 3:9] = True
    context = trunk.encode(frames, time_mask=mask)
    other = replace(frames, features=frames.features + 5.0 * mask[..., None])
    torch.testing.assert_close(trunk.encode(other, time_mask=mask), context, rtol=0, atol=0)


def test_skipped_layers_take_no_part():
    model = make_model().train()
    batch = PretrainingBatch(torch.randn(2, SAMPLES).double(), [make_sub_batch(2, 1)])
    model(batch, temperature=1.0, kept_layers=[True, False, True, True]).loss.backward()
    layers = model.wav2vec2.encoder.stack.layers
    assert layers[1].fc1.weight.grad is None
    assert layers[2].fc1.weight.grad is not None


@pytest.mark.parametrize("hourglass", [None, TINY.hourglass], ids=["plain", "hourglass"])
@pytest.mark.parametrize("kept", [[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
def test_exactly_the_layers_told_are_skipped(hourglass, kept):
    model = make_model(replace(TINY, hourglass=hourglass)).train()
    ran = []
    for number, layer in enumerate(model.wav2vec2.encoder.stack.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    batch = PretrainingBatch(torch.randn(2, SAMPLES).double(), [make_sub_batch(2, 1)])
    model(batch, temperature=1.0, kept_layers=[bool(keep) for keep in kept])
    assert ran == [number for number, keep in enumerate(kept) if keep]


def test_layerdrop_rate():
    generator = torch.Generator().manual_seed(0)
    kept = [draw_kept_layers(12, 0.25, generator) for _ in range(1000)]
    assert np.mean(kept) == pytest.approx(0.75, abs=0.02)
    assert draw_kept_layers(12, 0.0, generator) == [True] * 12


def test_noise_seed_decides_the_draw():
    model = make_model().train()
    batch = PretrainingBatch(torch.randn(2, SAMPLES).double(), [make_sub_batch(2, 1)])
    same = [model(batch, temperature=1.0).loss.item() for _ in range(2)]
    assert same[0] == same[1]
    batch.sub_batches[0].noise_seed += 1
    assert model(batch, temperature=1.0).loss.item() != same[0]


def test_float64_stays_float64():
    model = make_model().train()
    batch = PretrainingBatch(torch.randn(2, SAMPLES).double(), [make_sub_batch(2, 1)])
    output = model(batch, temperature=1.0)
    assert output.loss.dtype == torch.float64


def test_bfloat16_runs():
    model = make_model().bfloat16().train()
    batch = PretrainingBatch(torch.randn(2, SAMPLES).bfloat16(), [make_sub_batch(2, 1)])
    output = model(batch, temperature=1.0)
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
