"""The encoder's parts against their definitions, and what is drawn at the start."""

import math

import pytest
import torch

from wav2vec2.encoder import (
    Encoder,
    PositionalConvolution,
    SelfAttention,
    TransformerLayer,
    TransformerStack,
    draw_kept_layers,
)

DIM, HEADS = 12, 3


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def shaken(module):
    """In fp64, every parameter moved: a gain of 1 or a bias of 0 would hide its being left out."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return module


def make_layer(norm_first, **dropouts):
    torch.manual_seed(0)
    none = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    return shaken(TransformerLayer(DIM, 20, HEADS, norm_first=norm_first, **{**none, **dropouts}))


@pytest.mark.parametrize("kernel", [1, 4, 5, 8])
def test_positional_convolution_against_loops(kernel):
    """Output t sees kernel // 2 frames to the left of t, and as many groups of channels."""
    torch.manual_seed(0)
    groups, frames = 3, 7
    position = shaken(PositionalConvolution(DIM, kernel, groups))
    x = randn(2, frames, DIM)
    gain = position.conv.parametrizations.weight.original0
    direction = position.conv.parametrizations.weight.original1
    assert gain.shape == (1, 1, kernel)
    width = DIM // groups
    expected = torch.zeros(2, frames, DIM, dtype=torch.float64)
    for tap in range(kernel):
        weight = gain[0, 0, tap] * direction[:, :, tap] / direction[:, :, tap].norm()
        for t in range(frames):
            source = t + tap - kernel // 2
            if 0 <= source < frames:
                for channel in range(DIM):
                    group = channel // width * width
                    seen = x[:, source, group : group + width]
                    expected[:, t, channel] += seen @ weight[channel]
    expected = torch.nn.functional.gelu(expected + position.conv.bias)
    torch.testing.assert_close(position(x), expected)


def slow_attention(attention, x, frames):
    """One utterance `[T, DIM]` whose first `frames` keys may be seen, head by head."""
    q, k, v = (p(x) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    width = DIM // HEADS
    mixed = torch.zeros_like(x)
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:frames, part].T / math.sqrt(width)
        mixed[:, part] = scores.softmax(-1) @ v[:frames, part]
    return attention.out_proj(mixed)


def test_attention_against_heads_one_by_one():
    torch.manual_seed(0)
    attention = shaken(SelfAttention(DIM, HEADS, 0.0))
    x = randn(2, 6, DIM)
    lengths = [6, 4]
    valid = torch.arange(6) < torch.tensor(lengths)[:, None]
    together = attention(x, valid)
    for row, frames in enumerate(lengths):
        torch.testing.assert_close(together[row], slow_attention(attention, x[row], frames))
    torch.testing.assert_close(attention(x, None)[1], slow_attention(attention, x[1], 6))


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-LN", "pre-LN"])
def test_layer_against_its_formula(norm_first):
    layer = make_layer(norm_first)
    x = randn(1, 5, DIM)

    def attention(y):
        return slow_attention(layer.self_attn, y[0], 5)[None]

    def feed_forward(y):
        return layer.fc2(torch.nn.functional.gelu(layer.fc1(y)))

    first, second = layer.self_attn_layer_norm, layer.final_layer_norm
    if norm_first:
        middle = x + attention(first(x))
        expected = middle + feed_forward(second(middle))
    else:
        middle = first(x + attention(x))
        expected = second(middle + feed_forward(middle))
    torch.testing.assert_close(layer(x, None), expected)


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-LN", "pre-LN"])
def test_encoder_norm_is_first_or_last(norm_first):
    layer = make_layer(norm_first)
    encoder = shaken(
        Encoder(
            TransformerStack([layer]),
            dim=DIM,
            position_kernel=4,
            position_groups=2,
            norm_first=norm_first,
            dropout=0.0,
        )
    )
    x = randn(1, 5, DIM)
    placed = x + encoder.pos_conv(x)
    if norm_first:
        expected = encoder.layer_norm(layer(placed, None))
    else:
        expected = layer(encoder.layer_norm(placed), None)
    torch.testing.assert_close(encoder(x, None), expected)


def test_padded_frames_do_not_reach_the_positional_convolution():
    encoder = shaken(
        Encoder(
            TransformerStack([]),
            dim=DIM,
            position_kernel=6,
            position_groups=2,
            norm_first=False,
            dropout=0.0,
        )
    )
    x = randn(1, 9, DIM)
    valid = torch.arange(9)[None] < 5
    torch.testing.assert_close(encoder(x, valid)[:, :5], encoder(x[:, :5], None))


def test_dropouts_act_in_training_alone_and_where_they_belong():
    """Each with probability almost 1, so that what it acts on all but disappears."""
    x = randn(1, 50, DIM)
    most = 1 - 1e-9
    for norm_first in (False, True):
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            layer = make_layer(norm_first, **{name: most})
            plain = make_layer(norm_first)
            torch.testing.assert_close(layer.eval()(x, None), plain(x, None))
            with torch.no_grad():
                if name == "attention_dropout":
                    plain.self_attn.v_proj.weight.zero_()
                    plain.self_attn.v_proj.bias.zero_()
                elif name == "activation_dropout":
                    plain.fc2.weight.zero_()
                else:
                    for block in (plain.fc2, plain.self_attn.out_proj):
                        block.weight.zero_()
                        block.bias.zero_()
            torch.testing.assert_close(layer.train()(x, None), plain(x, None))


def test_skipping_a_layer_is_leaving_it_out():
    torch.manual_seed(0)
    layers = [make_layer(True) for _ in range(3)]
    for layer in layers:
        shaken(layer)
    x = randn(2, 5, DIM)
    skipped = TransformerStack(layers)(x, None, [True, False, True])
    torch.testing.assert_close(skipped, TransformerStack([layers[0], layers[2]])(x, None))
    nothing = TransformerStack(layers)(x, None, [False] * 3)
    assert torch.equal(nothing, x)


def test_layerdrop_depends_on_its_generator_alone():
    def draw():
        return draw_kept_layers(24, 0.5, torch.Generator().manual_seed(3))

    first = draw()
    torch.rand(7)
    assert draw() == first and len(first) == 24 and 0 < sum(first) < 24


def test_initial_weights():
    torch.manual_seed(0)
    dim, kernel = 192, 16
    layer = TransformerLayer(
        dim,
        4 * dim,
        4,
        norm_first=False,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    attention = layer.self_attn
    for linear in (
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.out_proj,
        layer.fc1,
        layer.fc2,
    ):
        assert linear.weight.std() == pytest.approx(0.02, rel=0.02)
        assert linear.weight.abs().max() > 0.06  # normal, not uniform
        assert not linear.bias.any()
    position = PositionalConvolution(dim, kernel, 4).conv
    assert position.weight.std() == pytest.approx(math.sqrt(4 / (kernel * dim)), rel=0.02)
    assert not position.bias.any()
