"""Pre-training against Hugging Face transformers: encoder, losses, perplexities, gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.parity.conftest import OBJECTIVE, assert_gradients_agree, pretraining_pair
from wav2vec2.contrastive import draw_distractors
from wav2vec2.feature_extractor import frame_count
from wav2vec2.masking import draw_time_masks
from wav2vec2.pretraining import PretrainingBatch, SubBatch, take_frames

ROWS, SAMPLES = 2, 16_000


@pytest.fixture(scope="module")
def pair(architecture):
    return pretraining_pair(architecture)


@pytest.fixture(scope="module")
def wide_pair(architecture):
    """In fp64 for gradients: some are zero but for rounding."""
    return tuple(model.double() for model in pretraining_pair(architecture))


def widen(task):
    batch, inputs = task
    waveforms = batch.waveforms.double()
    return replace(batch, waveforms=waveforms), {**inputs, "input_values": waveforms}


@pytest.fixture(scope="module")
def task(architecture):
    """One batch in both forms: (our batch, transformers' inputs)."""
    generator = np.random.default_rng(3)
    torch.manual_seed(3)
    waveforms = torch.randn(ROWS, SAMPLES)
    frames = frame_count(SAMPLES, architecture.conv_layers)
    rows = draw_time_masks(
        [frames] * ROWS, probability=0.65, span=5, generator=generator, padded=False
    )
    masked = torch.tensor(np.stack(rows))
    distractors = torch.tensor(
        draw_distractors(ROWS, masked.shape[1], OBJECTIVE.distractors, generator)
    )
    mask = torch.zeros(ROWS, frames, dtype=torch.bool).scatter_(1, masked, True)
    # transformers numbers distractors through all frames of all rows, and wants them for each.
    negatives = torch.zeros(ROWS, frames, OBJECTIVE.distractors, dtype=torch.long)
    for row in range(ROWS):
        negatives[row, masked[row]] = row * frames + masked[row][distractors[row]]
    ours = PretrainingBatch(waveforms, [SubBatch(masked, distractors, noise_seed=0)])
    theirs = {
        "input_values": waveforms,
        "mask_time_indices": mask,
        "sampled_negative_indices": negatives,
    }
    return ours, theirs


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs() / b.abs()).detach())


def test_encoder_output(pair, task):
    ours, theirs = (model.eval() for model in pair)
    waveforms = task[0].waveforms
    with torch.no_grad():
        trunk = ours.wav2vec2
        context = trunk.encode(trunk.extract(waveforms, None))
        expected = theirs.wav2vec2(waveforms).last_hidden_state
    assert (context - expected).abs().max() <= 1e-4


def backward(ours, theirs, our_loss, their_loss) -> None:
    for model, loss in ((ours, our_loss), (theirs, their_loss)):
        model.zero_grad()
        loss.backward()


def test_evaluation_mode(pair, task):
    """Arg-max codes: contrastive loss and hard perplexity."""
    ours, theirs = (model.eval() for model in pair)
    with torch.no_grad():
        output = ours(task[0], temperature=1.0)
        expected = theirs(**task[1])
    assert relative(output.contrastive_loss, expected.contrastive_loss) <= 1e-5
    assert relative(output.code_perplexity, expected.codevector_perplexity) <= 1e-5


def test_evaluation_gradients(wide_pair, task):
    ours, theirs = (model.eval() for model in wide_pair)
    batch, inputs = widen(task)
    our_loss = ours(batch, temperature=1.0).contrastive_loss
    backward(ours, theirs, our_loss, theirs(**inputs).contrastive_loss)
    assert_gradients_agree(ours, theirs)


@pytest.fixture
def same_draws(task, monkeypatch):
    """A function that makes two models draw the same Gumbel noise."""
    batch, inputs = task
    rows, frames = inputs["mask_time_indices"].shape

    def share(ours) -> None:
        torch.manual_seed(5)
        width = ours.quantizer.groups * ours.quantizer.entries
        noise = -torch.empty(rows, frames, width).exponential_().log()

        def their_gumbel_softmax(logits, tau, hard):
            assert hard
            soft = ((logits + noise.view_as(logits)) / tau).softmax(-1)
            index = soft.argmax(-1, keepdim=True)
            return torch.zeros_like(logits).scatter_(-1, index, 1.0) - soft.detach() + soft

        def our_noise(logits, generator):
            return take_frames(noise, batch.sub_batches[0].masked).view_as(logits)

        monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", their_gumbel_softmax)
        monkeypatch.setattr("wav2vec2.quantizer.sample_gumbel", our_noise)

    return share


TEMPERATURE = 1.7


def test_training_mode(pair, task, same_draws):
    """The same Gumbel draws: total loss with its diversity term, and soft perplexity."""
    ours, theirs = (model.train() for model in pair)
    same_draws(ours)
    theirs.set_gumbel_temperature(TEMPERATURE)
    with torch.no_grad():
        output = ours(task[0], temperature=TEMPERATURE)
        expected = theirs(**task[1])
    assert relative(output.loss, expected.loss) <= 1e-5
    assert relative(output.contrastive_loss, expected.contrastive_loss) <= 1e-5


def test_training_perplexity(pair, wide_pair, task, same_draws):
    """In fp64 against transformers, whose logarithm lacks fairseq's 1e-7: 0.9e-5; in fp32 against
    fp64, rounding alone."""
    ours, theirs = (model.train() for model in wide_pair)
    batch, inputs = widen(task)
    theirs.set_gumbel_temperature(TEMPERATURE)
    with torch.no_grad():
        same_draws(ours)
        exact = ours(batch, temperature=TEMPERATURE).prob_perplexity
        expected = theirs(**inputs).codevector_perplexity
        same_draws(pair[0].train())
        rounded = pair[0](task[0], temperature=TEMPERATURE).prob_perplexity
    assert relative(exact, expected) <= 1e-5
    assert relative(rounded, exact) <= 1e-5


def test_training_gradients(wide_pair, task, same_draws):
    ours, theirs = (model.train() for model in wide_pair)
    same_draws(ours)
    theirs.set_gumbel_temperature(TEMPERATURE)
    batch, inputs = widen(task)
    backward(ours, theirs, ours(batch, temperature=TEMPERATURE).loss, theirs(**inputs).loss)
    assert_gradients_agree(ours, theirs)
