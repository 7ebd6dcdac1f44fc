import math

import pytest
import torch

from wav2vec2.quantizer import GumbelQuantizer, gumbel_temperature, perplexity, sample_gumbel


def make(groups=2, entries=5, dim=6, output=8):
    torch.manual_seed(0)
    return GumbelQuantizer(dim, groups, entries, output).double()


def test_evaluation_takes_the_arg_max():
    quantizer = make().eval()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    output = quantizer(x, temperature=1.0)
    weight, bias = quantizer.weight_proj.weight, quantizer.weight_proj.bias
    for b in range(3):
        for t in range(4):
            logits = weight @ x[b, t] + bias
            codes = [int(logits[g * 5 : (g + 1) * 5].argmax()) for g in range(2)]
            assert output.codes[b, t].tolist() == codes
            entries = [quantizer.vars[0, g * 5 + code] for g, code in enumerate(codes)]
            torch.testing.assert_close(output.vectors[b, t], torch.cat(entries))


def test_perplexities():
    quantizer = make().eval()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    output = quantizer(x, temperature=1.0)
    logits = quantizer.weight_proj(x).view(12, 2, 5)
    hard = soft = 0.0
    for g in range(2):
        counts = torch.bincount(logits[:, g].argmax(-1), minlength=5).double() / 12
        hard += math.exp(-sum(p * math.log(p + 1e-7) for p in counts.tolist()))
        mean = logits[:, g].softmax(-1).mean(0).detach()
        soft += math.exp(-sum(p * math.log(p + 1e-7) for p in mean.tolist()))
        assert output.code_counts[g].tolist() == (counts * 12).tolist()
        torch.testing.assert_close(output.prob_sums[g], mean * 12)
    assert math.isclose(output.code_perplexity, hard, rel_tol=1e-9)
    assert math.isclose(output.prob_perplexity.item(), soft, rel_tol=1e-9)


def test_perplexity_bounds():
    assert math.isclose(perplexity(torch.full((2, 320), 1 / 320)), 640, rel_tol=1e-3)
    collapsed = torch.zeros(2, 320)
    collapsed[:, 3] = 1
    assert math.isclose(perplexity(collapsed), 2, rel_tol=1e-5)


def test_training_draws_by_noisy_logits_and_passes_the_soft_gradient():
    quantizer = make().train()
    x = torch.randn(1, 3, 6, dtype=torch.float64)
    output = quantizer(x, 0.7, torch.Generator().manual_seed(4))
    logits = quantizer.weight_proj(x).view(3, 2, 5)
    noise = sample_gumbel(logits, torch.Generator().manual_seed(4))
    soft = ((logits + noise) / 0.7).softmax(-1)
    assert output.codes[0].tolist() == soft.argmax(-1).tolist()

    direction = torch.randn_like(output.vectors)
    quantizer.zero_grad()
    (output.vectors * direction).sum().backward(retain_graph=True)
    got = quantizer.weight_proj.weight.grad.clone()
    quantizer.zero_grad()
    codebooks = quantizer.vars.view(2, 5, -1).detach()
    relaxed = torch.einsum("fgv,gvd->fgd", soft, codebooks).reshape(1, 3, -1)
    (relaxed * direction).sum().backward()
    torch.testing.assert_close(got, quantizer.weight_proj.weight.grad)


def test_noise_leaves_the_soft_perplexity_alone():
    quantizer = make().train()
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    first = quantizer(x, 1.0, torch.Generator().manual_seed(1))
    second = quantizer(x, 1.0, torch.Generator().manual_seed(2))
    assert not torch.equal(first.codes, second.codes)
    assert first.prob_perplexity == second.prob_perplexity
    assert first.code_perplexity == second.code_perplexity


def test_gumbel_noise_has_its_moments():
    noise = sample_gumbel(torch.empty(200_000), torch.Generator().manual_seed(0))
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - math.pi**2 / 6) < 0.03


def test_half_precision_inputs_are_quantized_in_fp32():
    quantizer = GumbelQuantizer(6, 2, 5, 8).bfloat16().eval()
    output = quantizer(torch.randn(1, 3, 6).bfloat16(), 1.0)
    assert output.prob_sums.dtype == torch.float32
    assert output.vectors.dtype == torch.bfloat16


def test_gumbel_temperature_is_annealed_per_update():
    schedule = (2.0, 0.5, 0.9)
    assert gumbel_temperature(1, 4000, *schedule) == 2.0
    assert gumbel_temperature(2, 4000, *schedule) == pytest.approx(1.8)
    assert gumbel_temperature(1000, 4000, *schedule) == 0.5


@pytest.mark.parametrize("updates", [2, 100, 16_000])
def test_gumbel_temperature_without_decay_reaches_its_end_at_half_of_the_updates(updates):
    temperatures = [gumbel_temperature(n, updates, 2.0, 0.5, 0.0) for n in range(1, updates + 1)]
    half = updates // 2
    assert temperatures[0] == 2.0
    assert temperatures[half // 2] == pytest.approx(2.0 * 0.25 ** (half // 2 / half))
    assert temperatures[half - 1] > 0.5
    assert temperatures[half:] == pytest.approx([0.5] * half)


def test_a_constant_gumbel_temperature():
    assert gumbel_temperature(7, 10, 1.5, 1.5, 0.0) == 1.5
