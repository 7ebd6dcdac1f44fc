"""Models that are built without memory before their weights are loaded."""

import pytest
import torch

from wav2vec2.config import BASE, LARGE, MINI, Regularisation
from wav2vec2.interop import native
from wav2vec2.trunk import Wav2Vec2


@pytest.mark.parametrize("architecture", [MINI, BASE, LARGE], ids=["mini", "base", "large"])
def test_what_is_drawn_afterwards_is_the_same(architecture):
    if architecture is not MINI:
        architecture = architecture.__class__.from_dict({**architecture.to_dict(), "layers": 2})
    drawn = []
    for empty in (False, True):
        torch.manual_seed(3)
        if empty:
            with native.without_memory():
                trunk = Wav2Vec2.from_config(architecture, Regularisation())
        else:
            trunk = Wav2Vec2.from_config(architecture, Regularisation())
        assert all(p.is_meta == empty for p in trunk.parameters())
        drawn.append((torch.nn.Linear(7, 5).weight, torch.randn(20)))
    for first, second in zip(*drawn):
        assert torch.equal(first, second)
