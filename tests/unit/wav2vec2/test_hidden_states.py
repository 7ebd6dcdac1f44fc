"""Every layer's output, against the layers run by hand."""

from dataclasses import replace

import pytest
import torch

from wav2vec2.config import MINI, Hourglass, Regularisation
from wav2vec2.hidden_states import (
    all_hidden_states,
    hidden_states,
    layer_count,
    shortening,
)
from wav2vec2.trunk import Wav2Vec2


def build(**changed):
    torch.manual_seed(0)
    return Wav2Vec2.from_config(replace(MINI, **changed), Regularisation()).eval()


def by_hand(model, frames):
    """The plain encoder, step by step."""
    encoder = model.encoder
    x = model.post_extract_proj(frames.features) if model.post_extract_proj else frames.features
    x = x + encoder.pos_conv(x)
    if not encoder.norm_first:
        x = encoder.layer_norm(x)
    states = [x]
    for layer in encoder.stack.layers:
        states.append(layer(states[-1], None))
    if encoder.norm_first:
        states[-1] = encoder.layer_norm(states[-1])
    return states


@pytest.mark.parametrize("norm_first", [False, True])
def test_plain(norm_first):
    model = build(norm_first=norm_first)
    with torch.no_grad():
        frames = model.extract(torch.randn(2, 8_000), None)
        expected = by_hand(model, frames)
        assert layer_count(model) + 1 == len(expected) == 5
        for layer, values in enumerate(expected):
            assert torch.equal(hidden_states(model, frames, layer), values)
            assert shortening(model, layer) == 1
        # Nothing stays behind: the model works as before.
        assert torch.equal(model.encode(frames), expected[-1])


@pytest.mark.parametrize("post", [0, 1])
def test_hourglass(post):
    model = build(hourglass=Hourglass(1, 3 - post, 3, post))
    stack = model.encoder.stack
    with torch.no_grad():
        frames = model.extract(torch.randn(1, 8_400), None)
        count = frames.features.shape[1]
        assert count % 3  # the last shortened frame stands for fewer
        states = [hidden_states(model, frames, layer) for layer in range(5)]
        lengths = [values.shape[1] for values in states]
        short = -(-count // 3)
        assert lengths == [count, count, short, short, count]
        assert [shortening(model, layer) for layer in range(5)] == [1, 1, 3, 3, 1]
        assert torch.equal(stack.layers[0](states[0], None), states[1])
        assert torch.equal(stack.layers[1](stack.shorten(states[1]), None), states[2])
        assert torch.equal(stack.layers[2](states[2], None), states[3])
        assert torch.equal(model.encode(frames), states[4])


@pytest.mark.parametrize("hourglass", [None, Hourglass(1, 2, 3, 1), Hourglass(1, 3, 2, 0)])
def test_all_layers_in_one_pass(hourglass):
    model = build(hourglass=hourglass)
    with torch.no_grad():
        frames = model.extract(torch.randn(2, 8_400), None)
        found = all_hidden_states(model, frames)
        assert len(found) == layer_count(model)
        for layer, values in enumerate(found, start=1):
            assert torch.equal(values, hidden_states(model, frames, layer))
        assert torch.equal(model.encode(frames), found[-1])  # no hook stays behind
