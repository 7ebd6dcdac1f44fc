"""Features against Hugging Face transformers: hidden states of every layer, extractor, codes."""

import pytest
import torch

from tests.parity.conftest import pretraining_pair
from tests.parity.test_huggingface_folders import ARCHITECTURES
from wav2vec2.hidden_states import hidden_states, layer_count


@pytest.mark.parametrize("name", ["base", "large", "mini"])
def test_same_as_theirs(name):
    ours, theirs = (model.eval() for model in pretraining_pair(ARCHITECTURES[name]))
    trunk = ours.wav2vec2
    torch.manual_seed(2)
    waveforms = torch.randn(2, 12_345)
    with torch.no_grad():
        frames = trunk.extract(waveforms, None)
        output = theirs.wav2vec2(waveforms, output_hidden_states=True)
        assert len(output.hidden_states) == layer_count(trunk) + 1
        # Their version 5 leaves the final norm of pre-LN out of the last one; version 4 did not.
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        for layer, expected in enumerate(states):
            assert (hidden_states(trunk, frames, layer) - expected).abs().max() <= 1e-4
        assert (frames.features - output.extract_features).abs().max() <= 1e-4
        codes = ours.quantizer(frames.features, temperature=1.0).codes
        scores = theirs.quantizer.weight_proj(output.extract_features)
        assert torch.equal(codes, scores.view(*codes.shape, -1).argmax(-1))
