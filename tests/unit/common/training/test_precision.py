"""Half precision with fp32 masters, loss scaling, and the average of the weights."""

import pytest
import torch
from torch import nn

from common.training.ema import Ema
from common.training.optimizer import OptimizerOptions
from common.training.precision import LossScaler, Weights
from common.training.step import UpdateStep
from common.training.task import MicroBatchResult
from wav2vec2.cli.errors import HealthError, UserError
from wav2vec2.config import MINI, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.inference.device import check_supported
from wav2vec2.numerics import cast

CPU = torch.device("cpu")


class Island(nn.Linear):
    keeps_fp32 = True


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 4)
        self.island = Island(4, 1)

    def result(self, x):
        y = self.island(self.body(x.to(self.body.weight.dtype)).float())
        return MicroBatchResult(y.square().sum(), len(x), tokens=0, frames=0, audio_seconds=0.0)


def update(model, weights, optimizer, batches, loss_scale=1.0):
    scaler = LossScaler()
    scaler.scale = loss_scale
    step = UpdateStep(weights, optimizer, CPU, scaler=scaler)
    return step.run(batches, model.result, learning_rate=0.01)


def make(precision):
    model = Model()
    weights = Weights(model, precision)
    return model, weights, OptimizerOptions().build(weights.parameters())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_types(precision, dtype):
    model, weights, optimizer = make(precision)
    before = {name: master.detach().clone() for name, master in weights.named().items()}
    report = update(model, weights, optimizer, [torch.randn(5, 4)], loss_scale=8.0)
    assert report.applied
    assert model.body.weight.dtype == dtype and model.island.weight.dtype == torch.float32
    for name, master in weights.named().items():
        assert master.dtype == torch.float32 and not torch.equal(master, before[name])
        moments = optimizer.state[master]
        assert moments["exp_avg"].dtype == moments["exp_avg_sq"].dtype == torch.float32
    assert torch.equal(model.body.weight, weights.named()["body.weight"].to(dtype))
    assert weights.named()["island.weight"] is model.island.weight


def test_steps_too_small_for_half_precision_add_up():
    """What the masters are for: 100 steps of 1e-4 on a weight of 1, where bf16's step is 2**-8."""
    model, weights, _ = make("bf16")
    with torch.no_grad():
        weights.named()["body.weight"].fill_(1.0)
    for _ in range(100):
        with torch.no_grad():
            weights.named()["body.weight"].sub_(1e-4)
        weights.write_back()
    assert float(model.body.weight.detach().float().mean()) == pytest.approx(0.99, abs=2**-9)


def test_gradients_are_collected_in_fp32():
    """300 micro-batches of gradient 1 make 300, which a bf16 sum would never pass 256."""
    model, weights, optimizer = make("bf16")

    def forward(batch):
        return MicroBatchResult(model.body.bias.sum(), 1, tokens=0, frames=0, audio_seconds=0.0)

    UpdateStep(weights, optimizer, CPU).run(range(300), forward, learning_rate=0.0)
    torch.testing.assert_close(weights.named()["body.bias"].grad, torch.ones(4))


def test_the_loss_scale_cancels():
    norms = []
    for scale in (1.0, 1024.0):
        model, weights, optimizer = make("fp32")
        batch = torch.ones(3, 4)
        norms.append(update(model, weights, optimizer, [batch], loss_scale=scale).grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_overflow_leaves_everything_untouched():
    model, weights, optimizer = make("fp16")
    update(model, weights, optimizer, [torch.ones(3, 4)])
    masters = {name: master.detach().clone() for name, master in weights.named().items()}
    moments = {k: [t.clone() for t in v.values()] for k, v in optimizer.state.items()}
    halves = model.body.weight.detach().clone()
    report = update(model, weights, optimizer, [100 * torch.ones(3, 4)], loss_scale=2.0**20)
    assert not report.applied
    assert torch.equal(model.body.weight, halves)
    for name, master in weights.named().items():
        assert torch.equal(master, masters[name])
        for a, b in zip(optimizer.state[master].values(), moments[master]):
            assert torch.equal(a, b)


def test_scale_halves_and_doubles():
    scaler = LossScaler(window=3)
    assert scaler.scale == 128
    for _ in range(3):
        scaler.applied()
    assert scaler.scale == 256
    for _ in range(2):
        scaler.applied()
    scaler.overflowed([])
    assert scaler.scale == 128
    for _ in range(2):
        scaler.applied()
    assert scaler.scale == 128  # the window began anew
    again = LossScaler(window=3)
    again.load_state_dict(scaler.state_dict())
    again.applied()
    assert again.scale == 256


def test_the_floor_stops_the_run():
    scaler = LossScaler(floor=20)
    scaler.overflowed(["a"])
    scaler.overflowed(["a"])
    with pytest.raises(HealthError, match="loss scale fell below 20: .* utterances u1, u2"):
        scaler.overflowed(["u1", "u2"])


def test_state_is_fp32_and_fits_every_precision():
    _, weights, _ = make("bf16")
    state = weights.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    other_model, other, _ = make("fp32")
    with torch.no_grad():
        other_model.body.weight.zero_()
    other.load_state_dict(state)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[name])
    back_model, back, _ = make("bf16")
    with torch.no_grad():
        back.named()["body.weight"].zero_()
    back.load_state_dict(other.state_dict())
    assert torch.equal(back.named()["body.weight"], state["body.weight"])
    assert torch.equal(back_model.body.weight, state["body.weight"].bfloat16())


def test_cpus_have_bf16():
    check_supported("bf16", CPU)


def test_a_type_the_device_lacks(monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("\"slow_conv\" not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "conv1d", refuse)
    with pytest.raises(UserError, match="--precision fp16: cpu does not support it .*'Half'"):
        check_supported("fp16", CPU)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_average_against_the_formula(precision):
    model, weights, optimizer = make(precision)
    ema = Ema(weights, 0.9)
    expected = {name: master.detach().clone() for name, master in weights.named().items()}
    for step in range(5):
        update(model, weights, optimizer, [torch.full((2, 4), float(step))])
        ema.update()
        for name, master in weights.named().items():
            expected[name] = 0.9 * expected[name] + 0.1 * master.detach()
    for name, average in ema.state_dict().items():
        torch.testing.assert_close(average, expected[name])
    own = model.body.weight.detach().clone()
    with ema.in_place():
        inside = expected["body.weight"].to(own.dtype)
        torch.testing.assert_close(model.body.weight.detach(), inside)
        assert not torch.equal(model.body.weight, own)
    assert torch.equal(model.body.weight, own)


def test_cast_for_inference():
    """Rounded, but the modules that stay fp32; in fp32 nothing changes."""
    network = Wav2Vec2ForCTC.from_config(MINI, Regularisation(), 12).eval()
    waveforms = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(waveforms).logits
        cast(network, "fp32")
        assert torch.equal(network(waveforms).logits, expected)
        cast(network, "bf16")
        found = network(waveforms).logits
    types = {name: parameter.dtype for name, parameter in network.named_parameters()}
    assert {t for n, t in types.items() if "pos_conv" in n} == {torch.float32}
    assert {t for n, t in types.items() if "pos_conv" not in n} == {torch.bfloat16}
    assert found.dtype == torch.bfloat16
    difference = (found.float() - expected).norm() / expected.norm()
    assert 0 < difference < 0.05
