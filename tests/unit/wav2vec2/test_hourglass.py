"""The hourglass has no twin elsewhere: held against its definition, written out with loops."""

import pytest
import torch

from wav2vec2.encoder import TransformerLayer
from wav2vec2.hourglass import HourglassStack

DIM = 8


def make_stack(factor: int, resampling: str, norm_first: bool) -> HourglassStack:
    torch.manual_seed(factor)
    layers = [
        TransformerLayer(
            DIM,
            16,
            2,
            norm_first=norm_first,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
        )
        for _ in range(4)
    ]
    stack = HourglassStack(
        layers, dim=DIM, pre=1, middle=2, factor=factor, resampling=resampling
    ).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return stack


def slow_hourglass(stack: HourglassStack, x: torch.Tensor) -> torch.Tensor:
    """One utterance `[frames, DIM]`, frame by frame."""
    factor = stack.factor
    x = stack.layers[0](x[None], None)[0]
    frames = [x[t] for t in range(len(x))]
    while len(frames) % factor:
        frames.append(torch.zeros(DIM, dtype=x.dtype))
    short = []
    for start in range(0, len(frames), factor):
        group = frames[start : start + factor]
        if stack.shorten_linear is None:
            short.append(sum(group) / factor)
        else:
            weight, bias = stack.shorten_linear.weight, stack.shorten_linear.bias
            short.append(weight @ torch.cat(group) + bias)
    middle = torch.stack(short)[None]
    for layer in stack.layers[1:3]:
        middle = layer(middle, None)
    long = []
    for vector in middle[0]:
        for position in range(factor):
            if stack.upsample_linear is None:
                long.append(vector)
            else:
                rows = slice(position * DIM, (position + 1) * DIM)
                weight = stack.upsample_linear.weight[rows]
                long.append(weight @ vector + stack.upsample_linear.bias[rows])
    summed = torch.stack([x[t] + long[t] for t in range(len(x))])
    return stack.layers[3](summed[None], None)[0]


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("resampling", ["naive", "linear"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 6])
def test_against_loops(factor, resampling, norm_first):
    stack = make_stack(factor, resampling, norm_first)
    for frames in (1, 5, 12, 13):
        x = torch.randn(frames, DIM, dtype=torch.float64)
        torch.testing.assert_close(stack(x[None], None)[0], slow_hourglass(stack, x))


@pytest.mark.parametrize("resampling", ["naive", "linear"])
def test_padded_batches(resampling):
    """Each row as if it were alone, whatever its padded frames hold."""
    stack = make_stack(4, resampling, True)
    lengths = [13, 8, 3, 1]
    x = 100 * torch.randn(len(lengths), 13, DIM, dtype=torch.float64)
    valid = torch.arange(13) < torch.tensor(lengths)[:, None]
    together = stack(x, valid)
    for row, frames in enumerate(lengths):
        expected = slow_hourglass(stack, x[row, :frames])
        torch.testing.assert_close(together[row, :frames], expected)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 6])
def test_the_factor_can_change(factor):
    """The same weights at another factor: in padded batches too, the result of the definition."""
    stack = make_stack(4, "naive", True)
    stack.factor = factor
    lengths = [13, 8, 3, 1]
    x = 100 * torch.randn(len(lengths), 13, DIM, dtype=torch.float64)
    together = stack(x, torch.arange(13) < torch.tensor(lengths)[:, None])
    for row, frames in enumerate(lengths):
        expected = slow_hourglass(stack, x[row, :frames])
        torch.testing.assert_close(together[row, :frames], expected)


def test_a_shortened_frame_is_padding_only_if_all_under_it_are():
    stack = make_stack(4, "naive", True)
    valid = torch.arange(10) < torch.tensor([10, 9, 8, 5, 4])[:, None]
    assert stack.shorten_valid(valid).sum(1).tolist() == [3, 3, 2, 2, 1]


def test_layerdrop_counts_layers_through():
    stack = make_stack(2, "naive", True)
    x = torch.randn(1, 6, DIM, dtype=torch.float64)
    kept = stack(x, None, [True, False, False, True])
    first = stack.layers[0](x, None)
    expected = stack.layers[3](first + stack.upsample(stack.shorten(first), 6), None)
    torch.testing.assert_close(kept, expected)
