"""The choice of kernels: tried out, logged once, with a fallback to plain torch."""

import copy
import logging

import pytest
import torch

from wav2vec2 import kernels
from wav2vec2.config import MINI, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.encoder import SelfAttention
from wav2vec2.feature_extractor import FeatureExtractor
from wav2vec2.kernels.attention import CpuSelfAttention, GpuSelfAttention
from wav2vec2.kernels.convolution import CpuFeatureExtractor
from wav2vec2.kernels.recomputation import RecomputedExtractor

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(autouse=True)
def chosen_anew():
    kernels._available.cache_clear()
    yield
    kernels._available.cache_clear()


def build():
    torch.manual_seed(0)
    return Wav2Vec2ForCTC.from_config(MINI, Regularisation(), 10)


def classes(model):
    parts = model.wav2vec2.feature_extractor, model.wav2vec2.encoder.stack.layers[-1].self_attn
    return tuple(type(part) for part in parts)


def test_each_device_has_its_kernels():
    model = build()
    assert classes(model) == (FeatureExtractor, SelfAttention)
    names = list(model.state_dict())
    kernels.install(model, CPU)
    assert classes(model) == (CpuFeatureExtractor, CpuSelfAttention)
    assert list(model.state_dict()) == names
    other = build()
    kernels.install(other, META)
    assert classes(other) == (RecomputedExtractor, GpuSelfAttention)


def test_the_choice_is_logged_once_and_draws_nothing(caplog):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO), torch.inference_mode():
        for _ in range(2):
            kernels.install(torch.nn.Identity(), CPU)
    assert [(r.name, r.levelname, r.message) for r in caplog.records] == [
        ("wav2vec2.kernels", "INFO", f"kernel in use: {name} by matrix products (cpu)")
        for name in ("feature extractor", "attention")
    ]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError])
def test_what_torch_cannot_do_falls_back(caplog, monkeypatch, error):
    def fail(*_):
        raise error("first line\nsecond")

    monkeypatch.setattr("wav2vec2.kernels.attention._Products.apply", fail)
    model = build()
    with caplog.at_level(logging.INFO):
        kernels.install(model, CPU)
    assert classes(model) == (CpuFeatureExtractor, SelfAttention)
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "kernel not available: attention by matrix products (cpu); plain torch is used (first line)"
    ]


@pytest.mark.parametrize("error", [TypeError, AttributeError, AssertionError])
def test_a_mistake_of_our_own_is_not_hidden(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("wav2vec2.kernels.attention._Products.apply", fail)
    with pytest.raises(error):
        kernels.install(build(), CPU)


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-9), (torch.bfloat16, 0.05)])
def test_weights_may_change_their_type_after_the_choice(dtype, bound):
    model = build().eval()
    plain = copy.deepcopy(model).to(dtype)
    kernels.install(model, CPU)
    model.to(dtype)
    waveforms, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    waveforms[1, 6000:] = 0
    with torch.inference_mode():
        found, expected = (m(waveforms.to(dtype), lengths).logits for m in (model, plain))
    valid = torch.arange(found.shape[1]) < model.frames(lengths)[:, None]
    assert float((found - expected)[valid].abs().max()) < bound * float(expected.abs().max())
