"""The trunk: where dropouts act, what is drawn at the start, and that nothing waits for a device."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.wav2vec2.test_pretraining import (
    NO_DROPOUT,
    SAMPLES,
    TINY,
    make_model,
    make_sub_batch,
)
from wav2vec2.config import BASE, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.model import Wav2Vec2
from wav2vec2.pretraining import PretrainingBatch


def inputs_in_training(**dropouts):
    """What reaches the quantizer and the encoder of a model with these dropouts."""
    model = make_model(regularisation=replace(NO_DROPOUT, **dropouts)).train()
    seen = {}
    model.quantizer.register_forward_pre_hook(lambda m, args: seen.update(quantizer=args[0]))
    model.wav2vec2.encoder.register_forward_pre_hook(lambda m, args: seen.update(encoder=args[0]))
    torch.manual_seed(2)
    waveforms = torch.randn(1, SAMPLES, dtype=torch.float64)
    part = make_sub_batch(1, 1)
    torch.manual_seed(3)
    model(PretrainingBatch(waveforms, [part]), temperature=1.0)
    return seen, model, part


def test_each_input_dropout_acts_on_its_own_branch():
    plain, _, _ = inputs_in_training()
    assert not (plain["quantizer"] == 0).any() and not (plain["encoder"] == 0).any()

    seen, _, _ = inputs_in_training(dropout_features=0.5)
    assert (seen["quantizer"] == 0).double().mean() == pytest.approx(0.5, abs=0.2)
    torch.testing.assert_close(seen["encoder"], plain["encoder"])

    seen, model, part = inputs_in_training(dropout_input=0.5)
    torch.testing.assert_close(seen["quantizer"], plain["quantizer"])
    masked = torch.zeros(seen["encoder"].shape[1], dtype=torch.bool)
    masked[part.masked[0]] = True
    zeros = (seen["encoder"][0] == 0).double()
    assert zeros[~masked].mean() == pytest.approx(0.5, abs=0.2)
    # Masking comes after the dropout: the mask vector itself is whole.
    assert torch.equal(
        seen["encoder"][0, masked], model.wav2vec2.mask_emb.expand(int(masked.sum()), -1)
    )


def test_final_dropout_is_before_the_output_layer():
    model = Wav2Vec2ForCTC.from_config(TINY, replace(NO_DROPOUT, final_dropout=1 - 1e-9), 7)
    with torch.no_grad():
        model.proj.bias.uniform_()
    waveforms = torch.randn(1, SAMPLES)
    logits = model.train()(waveforms).logits
    assert torch.equal(logits, model.proj.bias.expand_as(logits))
    assert not torch.equal(model.eval()(waveforms).logits, logits)


def test_projection_is_absent_where_the_widths_agree():
    """The parameter is not there at all, as in checkpoints of such models."""
    names = dict(Wav2Vec2.from_config(TINY, NO_DROPOUT).named_parameters())
    assert "post_extract_proj.weight" in names
    layers = (*TINY.conv_layers[:-1], (TINY.dim, 2, 2))
    same = Wav2Vec2.from_config(replace(TINY, conv_layers=layers), NO_DROPOUT)
    assert not any(name.startswith("post_extract_proj") for name, _ in same.named_parameters())
    assert same.encode(same.extract(torch.randn(1, SAMPLES), None)).shape[-1] == TINY.dim


def test_initial_weights():
    torch.manual_seed(0)
    model = make_model(replace(BASE, layers=1, dim=192, ffn_dim=192)).float()
    trunk = model.wav2vec2
    for block, (_, kernel, _), channels in zip(
        trunk.feature_extractor.conv_layers, BASE.conv_layers, (1, *[512] * 6)
    ):
        deviation = math.sqrt(2 / (kernel * channels))  # Kaiming normal
        assert block.conv.weight.std() == pytest.approx(deviation, rel=0.05)
        assert block.conv.weight.abs().max() > 2.5 * deviation  # normal, not uniform
    for uniform in (trunk.mask_emb, model.quantizer.vars):
        assert 0 <= uniform.min() and uniform.max() < 1
        assert uniform.mean() == pytest.approx(0.5, abs=0.1)
    assert model.quantizer.weight_proj.weight.std() == pytest.approx(1.0, rel=0.02)
    assert not model.quantizer.weight_proj.bias.any()
    for linear in (trunk.post_extract_proj, model.project_q, model.final_proj):
        limit = 1 / math.sqrt(linear.in_features)  # torch's own: uniform
        assert 0.98 * limit < linear.weight.abs().max() <= limit
        assert linear.bias.any()
    proj = Wav2Vec2ForCTC.from_config(TINY, NO_DROPOUT, 500).proj
    limit = math.sqrt(6 / (TINY.dim + 500))  # Xavier uniform
    assert 0.98 * limit < proj.weight.abs().max() <= limit and not proj.bias.any()


class StandInGenerator:
    """The meta device has no generators."""

    def __init__(self, device):
        pass

    def manual_seed(self, seed):
        return self


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_nothing_waits_for_the_device(training, norm, monkeypatch):
    """On the meta device tensors have no values, so reading one fails: no item(), no nonzero."""
    monkeypatch.setattr(torch, "Generator", StandInGenerator)
    architecture = replace(TINY, extractor_norm=norm)
    model = make_model(architecture, Regularisation()).to("meta").train(training)
    monkeypatch.setattr(model.quantizer, "gumbel_noise", lambda x, _: torch.empty_like(x))
    waveforms = torch.empty(3, SAMPLES, dtype=torch.float64)
    lengths = torch.tensor([SAMPLES, 7_000, 5_000])
    parts = [make_sub_batch(1, i, int(n)) for i, n in enumerate(lengths)]
    for batch in (
        PretrainingBatch(waveforms, [make_sub_batch(2, 1), make_sub_batch(1, 2)]),
        PretrainingBatch(waveforms, parts, lengths),
    ):
        kept = [True, False, True, True]
        output = model(batch.to(torch.device("meta")), temperature=1.0, kept_layers=kept)
        output.loss.backward()
        assert output.loss.device.type == "meta"

    recogniser = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), 7).to("meta")
    output = recogniser.train(training)(torch.empty(3, SAMPLES, device="meta"), lengths)
    output.logits.sum().backward()
    assert output.frame_lengths.device.type == "cpu"


def test_autocast_keeps_losses_in_fp32():
    """Half-precision products inside, and contrastive logits as good as fp32's."""
    torch.manual_seed(0)
    model = make_model().float().eval()
    batch = PretrainingBatch(torch.randn(2, SAMPLES), [make_sub_batch(2, 1)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch, temperature=1.0)
    for name in ("loss", "contrastive_loss", "diversity_loss", "features_penalty", "prob_sums"):
        assert getattr(output, name).dtype == torch.float32, name
    plain = model(batch, temperature=1.0)
    assert float(output.loss.detach()) == pytest.approx(float(plain.loss.detach()), rel=0.05)


def test_batch_keeps_lengths_on_the_cpu():
    lengths = torch.tensor([SAMPLES, 5_000])
    batch = PretrainingBatch(torch.randn(2, SAMPLES), [make_sub_batch(2, 1)], lengths)
    moved = batch.to(torch.device("meta"))
    assert moved.waveforms.device.type == moved.sub_batches[0].masked.device.type == "meta"
    assert moved.sub_batches[0].distractors.device.type == "meta"
    assert moved.lengths.device.type == "cpu" and np.array_equal(moved.lengths, lengths)
