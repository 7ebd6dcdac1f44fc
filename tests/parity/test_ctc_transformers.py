"""The recogniser against Hugging Face transformers: logits, loss, gradients."""

import pytest
import torch

from tests.parity.conftest import assert_gradients_agree, ctc_pair
from wav2vec2.ctc import ctc_loss

VOCABULARY = 32
LABELS = [[5, 6, 6, 9, 4], [7, 8, 4]]


@pytest.fixture(scope="module")
def pair(architecture):
    return ctc_pair(architecture, VOCABULARY)


def test_unpadded(pair):
    ours, theirs = (model.eval() for model in pair)
    torch.manual_seed(1)
    waveforms = torch.randn(2, 12_345)
    output = ours(waveforms)
    labels = torch.tensor([row + [-100] * (5 - len(row)) for row in LABELS])
    expected = theirs(waveforms, labels=labels)
    assert (output.logits - expected.logits).abs().max() <= 1e-4

    flat = torch.tensor([i for row in LABELS for i in row])
    lengths = torch.tensor([len(row) for row in LABELS])
    loss = ctc_loss(output.logits, output.frame_lengths, flat, lengths)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=0)


def test_gradients(architecture):
    ours, theirs = (model.double().eval() for model in ctc_pair(architecture, VOCABULARY))
    torch.manual_seed(1)
    waveforms = torch.randn(2, 12_345, dtype=torch.float64)
    output = ours(waveforms)
    flat = torch.tensor([i for row in LABELS for i in row])
    lengths = torch.tensor([len(row) for row in LABELS])
    ctc_loss(output.logits, output.frame_lengths, flat, lengths).backward()
    labels = torch.tensor([row + [-100] * (5 - len(row)) for row in LABELS])
    theirs(waveforms, labels=labels).loss.backward()
    assert_gradients_agree(ours, theirs)


@pytest.mark.parametrize("architecture", ["large"], indirect=True)
def test_padded(pair, architecture):
    """Only with the `layer` extractor: transformers' group norm sees padding, ours does not."""
    assert architecture.extractor_norm == "layer"
    ours, theirs = (model.eval() for model in pair)
    torch.manual_seed(2)
    lengths = torch.tensor([16_000, 9_000])
    waveforms = torch.randn(2, 16_000)
    waveforms[1, 9_000:] = 0
    attention_mask = (torch.arange(16_000) < lengths[:, None]).long()
    with torch.no_grad():
        output = ours(waveforms, lengths)
        expected = theirs(waveforms, attention_mask=attention_mask)
    for row, frames in enumerate(output.frame_lengths):
        difference = output.logits[row, :frames] - expected.logits[row, :frames]
        assert difference.abs().max() <= 1e-4
