"""Products in 8 bits: their rounding, and the logits of models that use them."""

import copy
from dataclasses import replace

import pytest
import torch

from wav2vec2 import kernels
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE, MINI, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.hidden_states import hidden_states
from wav2vec2.inference.device import check_int8
from wav2vec2.kernels import int8
from wav2vec2.numerics import cast

CPU = torch.device("cpu")
TYPES = (torch.float32, torch.bfloat16)
needs_vnni = pytest.mark.skipif(
    bool(int8.why_unsupported()), reason=f"8 bits: {int8.why_unsupported()}"
)


def bytes_of(x):
    rounded, factors = int8.round_rows(x)
    return (rounded.int() - int8.ZERO) * factors.float()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_rounding_errs_by_half_a_step_or_one_in_bf16(dtype, scale):
    torch.manual_seed(0)
    x = (scale * torch.randn(2000, 64)).to(dtype)
    x[0], x[1, :3] = 0, torch.tensor([-scale, scale, 0.0])
    largest = x.abs().amax(dim=1, keepdim=True).float()
    # bf16 has 8 bits itself: the factor errs by half a step, its product by a quarter.
    step = (0.51 if dtype == torch.float32 else 1.3) * largest / int8.LEVELS
    assert ((bytes_of(x) - x.float()).abs() <= step).all()
    assert not bytes_of(x)[0].any()


@needs_vnni
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows, inputs, outputs", [(1, 5, 3), (30, 64, 100), (1100, 48, 16)])
def test_product_is_that_of_the_rounded_numbers(dtype, rows, inputs, outputs):
    torch.manual_seed(1)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    x = torch.randn(rows, inputs).to(dtype)
    product = int8.Int8Product(weight, bias, dtype)
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    expected = bytes_of(x) @ (scale * (weight / scale).round()).T + bias.to(dtype).float()
    found = product(x, torch.empty(rows, outputs, dtype=dtype))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=10 * tolerance)


def build(architecture):
    torch.manual_seed(0)
    return Wav2Vec2ForCTC.from_config(architecture, Regularisation(), 32).eval()


def in_int8(model, precision):
    model = copy.deepcopy(model)
    int8.quantise(model, precision)
    cast(model, precision)
    kernels.install(model, CPU)
    return model


@needs_vnni
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "architecture",
    [
        BASE,
        replace(LARGE, layers=3),
        replace(MINI, hourglass=Hourglass.parse("[1,(2,2),1]")),
        replace(MINI, hourglass=None, dim=MINI.conv_layers[-1][0]),
    ],
    ids=["base", "large", "hourglass", "no projection"],
)
@torch.inference_mode()
def test_logits_are_close_to_those_of_fp32(architecture, precision):
    model = build(architecture)
    waveforms, lengths = 0.1 * torch.randn(2, 9000), torch.tensor([9000, 7000])
    waveforms[1, 7000:] = 0
    expected = model(waveforms, lengths)
    quantised = in_int8(model, precision)
    assert not any(isinstance(m, torch.nn.Linear) for m in quantised.wav2vec2.modules())
    found = quantised(waveforms, lengths)
    assert torch.equal(found.frame_lengths, expected.frame_lengths)
    for ours, theirs, count in zip(found.logits, expected.logits, found.frame_lengths):
        error = (ours[:count].float() - theirs[:count]).norm() / theirs[:count].norm()
        assert 0 < error < 0.08


@needs_vnni
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.inference_mode()
def test_neither_padding_nor_other_utterances_change_the_logits(precision):
    model = in_int8(build(MINI), precision)
    waveforms, lengths = torch.randn(3, 9000), torch.tensor([5000, 9000, 2000])
    waveforms[0, 5000:], waveforms[1], waveforms[2, 2000:] = 0, 30 * waveforms[1], 0
    batch = model(waveforms, lengths)
    for row, (length, count) in enumerate(zip(lengths.tolist(), batch.frame_lengths)):
        alone = model(waveforms[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(batch.logits[row, :count], alone, rtol=1e-4, atol=1e-4)


@needs_vnni
@torch.inference_mode()
def test_hidden_states_of_a_layer():
    model, waveforms = build(MINI), torch.randn(1, 9000)
    trunks = model.wav2vec2, in_int8(model, "fp32").wav2vec2
    expected, found = (hidden_states(t, t.extract(waveforms, None), 2) for t in trunks)
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


def test_refused_where_it_cannot_run(monkeypatch):
    with pytest.raises(UserError, match="--precision int8: runs on the CPU; add --cpu"):
        check_int8(torch.device("cuda"))
    int8.why_unsupported.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    try:
        with pytest.raises(UserError, match="int8: it needs an x86 CPU with AVX512-VNNI; choose"):
            check_int8(CPU)
    finally:
        int8.why_unsupported.cache_clear()


@needs_vnni
def test_a_product_that_is_wrong_is_not_used(monkeypatch):
    int8.why_unsupported.cache_clear()
    monkeypatch.setattr(int8.Int8Product, "__call__", lambda self, x, out: out.fill_(0))
    try:
        assert int8.why_unsupported() == "torch's product is wrong"
    finally:
        int8.why_unsupported.cache_clear()
