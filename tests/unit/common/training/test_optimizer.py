import copy
import math
from types import SimpleNamespace

import pytest
import torch

from common.training.optimizer import Lamb, OptimizerOptions
from wav2vec2.cli.errors import UserError


def slow_lamb(weights, gradients, *, lr, betas, eps, decay):
    """One tensor, number by number: the weights after each step."""
    mean, square, after = [0.0] * len(weights), [0.0] * len(weights), []
    for t, gradient in enumerate(gradients, start=1):
        step = []
        for i, g in enumerate(gradient):
            mean[i] = betas[0] * mean[i] + (1 - betas[0]) * g
            square[i] = betas[1] * square[i] + (1 - betas[1]) * g * g
            m, v = mean[i] / (1 - betas[0] ** t), square[i] / (1 - betas[1] ** t)
            step.append(m / (math.sqrt(v) + eps) + decay * weights[i])
        norm, step_norm = math.hypot(*weights), math.hypot(*step)
        ratio = norm / step_norm if decay and norm and step_norm else 1.0
        weights = [w - lr * ratio * s for w, s in zip(weights, step)]
        after.append(weights)
    return after


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("start", [[0.5, -1.5, 2.0], [0.0, 0.0, 0.0]])
def test_lamb(start, decay):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    untouched = torch.nn.Parameter(torch.ones(2))
    options = {"betas": (0.9, 0.98), "eps": 1e-6}
    optimizer = Lamb([parameter, untouched], lr=0.05, weight_decay=decay, **options)
    gradients = torch.randn(6, 3, dtype=torch.float64)
    expected = slow_lamb(start, gradients.tolist(), lr=0.05, decay=decay, **options)
    for gradient, weights in zip(gradients, expected):
        parameter.grad = gradient
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), torch.tensor(weights, dtype=torch.float64))
    assert torch.equal(untouched, torch.ones(2)) and untouched not in optimizer.state


def test_lamb_continues_to_the_bit():
    gradients = torch.randn(4, 5)

    def run(optimizer, parameter, rows):
        for gradient in rows:
            parameter.grad = gradient
            optimizer.step()

    options = OptimizerOptions(optimizer="lamb")
    straight = torch.nn.Parameter(torch.ones(5))
    first = options.build([straight])
    first.param_groups[0]["lr"] = 0.1
    run(first, straight, gradients[:2])
    resumed = torch.nn.Parameter(straight.detach().clone())
    second = options.build([resumed])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(first, straight, gradients[2:])
    run(second, resumed, gradients[2:])
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize(("name", "plain"), [("fused_adam", "adam"), ("fused_lamb", "lamb")])
def test_apex_asked_for_and_absent(name, plain, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apex", None)
    with pytest.raises(UserError, match=f"--optimizer {name}: apex .* or --optimizer {plain},"):
        OptimizerOptions(optimizer=name).build([torch.nn.Parameter(torch.ones(1))])


def test_eight_bits_asked_for_and_absent(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="adam8bit: bitsandbytes .* install bitsandbytes, or"):
        OptimizerOptions(optimizer="adam8bit").build([torch.nn.Parameter(torch.ones(1))])


def test_eight_bits(monkeypatch):
    """AdamW8bit gets the recipe's settings, and parameters on a GPU only."""
    built = []
    library = SimpleNamespace(AdamW8bit=lambda parameters, **flags: built.append(flags))
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", SimpleNamespace())
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", library)
    options = OptimizerOptions(optimizer="adam8bit", weight_decay=0.3)
    with pytest.raises(UserError, match="adam8bit: needs a GPU"):
        options.build([torch.nn.Parameter(torch.ones(1))])
    options.build([torch.nn.Parameter(torch.ones(1, device="meta"))])
    assert built == [{"lr": 0.0, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.3}]


@pytest.mark.parametrize(("fused", "plain"), [("fused_adam", "adam"), ("fused_lamb", "lamb")])
def test_apex_steps_as_ours_do(fused, plain):
    pytest.importorskip("apex", reason="apex ships in the NGC image")
    if not torch.cuda.is_available():
        pytest.skip("apex' optimizers need a GPU")
    results = []
    for name in (fused, plain):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(50, device="cuda"))
        optimizer = OptimizerOptions(optimizer=name).build([parameter])
        optimizer.param_groups[0]["lr"] = 0.01
        for _ in range(3):
            parameter.grad = torch.randn(50, device="cuda")
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)
