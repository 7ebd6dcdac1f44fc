"""Batch size and companions never change a transcript: the full presets, padded or alone."""

from dataclasses import replace

import pytest
import torch

from wav2vec2.config import BASE, LARGE, MINI, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC

HOURGLASS = {
    12: Hourglass(2, 8, 4, 2),
    24: Hourglass(4, 16, 3, 4, "linear"),
    4: Hourglass(1, 2, 2, 1),
}
SAMPLES = [16_000, 9_777, 4_321, 12_345]


@pytest.mark.parametrize("hourglass", [False, True], ids=["plain", "hourglass"])
@pytest.mark.parametrize("preset", [BASE, LARGE, MINI], ids=["base", "large", "mini"])
def test_logits_alone_and_in_a_batch(preset, hourglass):
    torch.manual_seed(1)
    architecture = replace(preset, hourglass=HOURGLASS[preset.layers] if hourglass else None)
    model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), 32).eval()
    utterances = [torch.randn(n) * (1 + i) for i, n in enumerate(SAMPLES)]
    lengths = torch.tensor(SAMPLES)
    batch = torch.zeros(len(SAMPLES), max(SAMPLES) + 1_500)  # padded beyond the longest, too
    for row, utterance in zip(batch, utterances):
        row[: len(utterance)] = utterance
    with torch.inference_mode():
        together = model(batch, lengths)
        for row, utterance in enumerate(utterances):
            alone = model(utterance[None])
            frames = alone.logits.shape[1]
            assert together.frame_lengths[row] == frames
            difference = together.logits[row, :frames] - alone.logits[0]
            assert difference.abs().max() <= 1e-4
    assert torch.isfinite(together.logits).all()


@pytest.mark.parametrize("preset", [BASE, LARGE], ids=["base", "large"])
def test_rows_of_as_many_frames_need_no_mask(preset):
    """Though the extractor's norm still sees each row's own samples alone."""
    torch.manual_seed(1)
    preset = replace(preset, layers=2)
    model = Wav2Vec2ForCTC.from_config(preset, Regularisation(), 32).eval()
    lengths = torch.tensor([16_000, 15_761])
    batch = torch.randn(2, 16_000)
    batch[1, 15_761:] = 0
    with torch.inference_mode():
        assert model.wav2vec2.extract(batch, lengths).valid is None
        together, alone = model(batch, lengths), model(batch[1:, :15_761])
        assert together.frame_lengths.tolist() == [49, 49]
        assert (together.logits[1] - alone.logits[0]).abs().max() <= 1e-4
        assert model.wav2vec2.extract(batch, torch.tensor([16_000, 15_759])).valid is not None
