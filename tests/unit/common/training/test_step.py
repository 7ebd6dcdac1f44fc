import gc
import weakref

import pytest
import torch

from common.training.optimizer import OptimizerOptions
from common.training.precision import Weights
from common.training.step import UpdateStep
from common.training.task import MicroBatchResult
from wav2vec2.cli.errors import UserError

OPTIONS = OptimizerOptions(adam_betas=(0.9, 0.98), adam_eps=1e-6, weight_decay=0.01)


def result_of(loss, targets, **sums):
    return MicroBatchResult(loss, targets, tokens=0, frames=0, audio_seconds=0.0, sums=sums)


class Model(torch.nn.Module):
    def __init__(self, used, unused, frozen):
        super().__init__()
        self.used, self.unused, self.frozen = used, unused, frozen

    def forward(self, batch):
        loss = ((self.used * batch) ** 2).sum()
        return result_of(loss, len(batch), n=len(batch))


def make():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(3)]
    parameters[2].requires_grad_(False)
    return Model(*parameters), OPTIONS.build(parameters)


def run(model, optimizer, batches, clip_norm=0.0, forward=None):
    step = UpdateStep(
        Weights(model),
        optimizer,
        torch.device("cpu"),
        clip_norm=clip_norm,
        memory_hint="lower --some_flag",
    )
    report = step.run(batches, forward or model.forward, learning_rate=0.1)
    return report, report.sums.total()


def test_gradient_is_divided_once_by_the_count_of_all_targets():
    model, optimizer = make()
    batches = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 5)]
    weights = model.used.detach().clone()
    report, sums = run(model, optimizer, batches)
    expected = sum(2 * weights * (b**2).sum(0) for b in batches) / 7
    torch.testing.assert_close(model.used.grad, expected)
    assert report.grad_norm == pytest.approx(float(expected.norm()))
    assert sums["n"] == 7


def test_adamw_written_out():
    model, optimizer = make()
    x = model.used.detach().clone()
    m = v = torch.zeros_like(x)
    for step in range(1, 4):
        batch = torch.randn(2, 3, dtype=torch.float64)
        run(model, optimizer, [batch])
        gradient = 2 * x * (batch**2).sum(0) / 2
        x = x * (1 - 0.1 * 0.01)
        m = 0.9 * m + 0.1 * gradient
        v = 0.98 * v + 0.02 * gradient**2
        x = x - 0.1 * (m / (1 - 0.9**step)) / ((v / (1 - 0.98**step)).sqrt() + 1e-6)
        torch.testing.assert_close(model.used.detach(), x)


def test_unused_parameters_have_zero_gradients_and_frozen_ones_stay():
    model, optimizer = make()
    unused, frozen = model.unused.detach().clone(), model.frozen.detach().clone()
    run(model, optimizer, [torch.ones(1, 3, dtype=torch.float64)])
    torch.testing.assert_close(model.unused.detach(), unused * (1 - 0.1 * 0.01))  # decay alone
    assert torch.equal(model.frozen, frozen)


def test_clipping_acts_on_the_norm_after_division():
    model, optimizer = make()
    report, _ = run(model, optimizer, [100 * torch.ones(4, 3, dtype=torch.float64)], clip_norm=2.0)
    assert report.grad_norm > 2
    assert float(model.used.grad.norm()) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    ],
)
def test_out_of_memory_lets_go_of_the_graph(error, monkeypatch):
    """In the backward pass, where all is still held that the forward pass kept: it is gone when
    room is asked for again."""
    model, optimizer = make()
    held, seen, trainable = [], [], Weights.trainable

    def look(weights):
        gc.collect()
        seen.append(held[0]())
        return trainable(weights)

    monkeypatch.setattr(Weights, "trainable", look)

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.activation = torch.ones(3)
            held.append(weakref.ref(ctx.activation))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise type(error)(*error.args)  # one that nobody else keeps

    def forward(batch):
        result = model(batch)
        return result_of(Full.apply(result.loss), result.targets)

    with pytest.raises(UserError, match="out of memory.*--some_flag"):
        run(model, optimizer, [torch.ones(3)], forward=forward)
    assert seen == [None]


def test_another_error_is_not_taken_for_it():
    model, optimizer = make()

    def forward(batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run(model, optimizer, [torch.ones(3)], forward=forward)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    model, optimizer = make()
    run(model, optimizer, [torch.ones(1, 3, dtype=torch.float64)])
    before = [model.used.detach().clone(), *optimizer.state[model.used].values()]
    before = [t.clone() for t in before]
    report, _ = run(model, optimizer, [torch.full((1, 3), bad, dtype=torch.float64)])
    assert not report.applied
    after = [model.used.detach(), *optimizer.state[model.used].values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after))
