"""One update's gradient, however its sub-batches are spread: the real step, in fp64."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.integration.conftest import ROOT

SUB_BATCHES, ROWS, SAMPLES = 8, 2, 6_000


def update_gradient(concat: int, dropout: float) -> dict[str, torch.Tensor]:
    """This process' part in an update over SUB_BATCHES given sub-batches; its summed gradient."""
    from common.runtime import distributed
    from common.runtime.randomness import key, numpy_generator, reseed
    from common.training.optimizer import OptimizerOptions
    from common.training.precision import Weights
    from common.training.step import UpdateStep
    from common.training.task import MicroBatchResult
    from tasks.data import draw_layers
    from wav2vec2.config import MINI, ContrastiveObjective, Hourglass, Regularisation
    from wav2vec2.contrastive import draw_distractors
    from wav2vec2.feature_extractor import frame_count
    from wav2vec2.masking import draw_time_masks
    from wav2vec2.pretraining import PretrainingBatch, SubBatch, Wav2Vec2ForPretraining

    architecture = replace(MINI, hourglass=Hourglass(1, 2, 2, 1))
    regularisation = Regularisation(
        dropout=dropout,
        dropout_input=dropout,
        attention_dropout=dropout,
        layerdrop=0.3 if dropout else 0.0,
    )
    torch.manual_seed(0)
    model = Wav2Vec2ForPretraining.from_config(
        architecture, regularisation, ContrastiveObjective(distractors=10, dropout_features=dropout)
    ).double()
    kept = draw_layers(architecture.layers, regularisation.layerdrop, 1, 1)
    frames = frame_count(SAMPLES, architecture.conv_layers)

    def sub_batch(number):
        generator = numpy_generator("test", number)
        masked = draw_time_masks(
            [frames] * ROWS, probability=0.65, span=4, generator=generator, padded=False
        )
        distractors = draw_distractors(ROWS, len(masked[0]), 10, generator)
        drawn = SubBatch(
            torch.tensor(np.stack(masked)), torch.tensor(distractors), key("noise", number)
        )
        return torch.tensor(generator.standard_normal((ROWS, SAMPLES))), drawn

    def forward(numbers):
        waveforms, drawn = zip(*map(sub_batch, numbers))
        reseed("forward", 1, 0, numbers[0])
        batch = PretrainingBatch(torch.cat(waveforms), list(drawn))
        output = model(batch, temperature=1.0, kept_layers=kept)
        return MicroBatchResult(output.loss, output.targets, tokens=0, frames=0, audio_seconds=0.0)

    groups = [range(n, n + concat) for n in range(0, SUB_BATCHES, concat)]
    weights = Weights(model)
    optimizer = OptimizerOptions().build(weights.parameters())
    step = UpdateStep(weights, optimizer, torch.device("cpu"))
    own = groups[distributed.rank() :: distributed.world_size()]
    step.run(own, forward, learning_rate=0.0)
    return {name: p.grad for name, p in weights.named().items() if p.grad is not None}


def main(path: str, dropout: str) -> None:
    """One of two processes."""
    from common.runtime import distributed

    with distributed.process_group(torch.device("cpu")):
        gradient = update_gradient(1, float(dropout))
        if distributed.is_main():
            torch.save(gradient, path)


def two_processes(path, dropout):
    result = subprocess.run(
        [sys.executable, "-m", "common.runtime.launcher", "--standalone", "--nproc_per_node", "2"]
        + ["-m", "tests.integration.test_geometry", str(path), str(dropout)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return torch.load(path, weights_only=True)


def assert_equal(a, b):
    assert a.keys() == b.keys() and len(a) > 50
    total = torch.stack([gradient.norm() for gradient in a.values()]).norm()
    for name, gradient in a.items():
        assert gradient.dtype == torch.float64
        # Some gradients are nothing but rounding: a key's bias, which softmax cancels.
        bound = 1e-9 * max(gradient.norm(), 1e-6 * total)
        assert (gradient - b[name]).norm() <= bound, name


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_gradient_is_one(tmp_path, dropout):
    accumulated = update_gradient(1, dropout)
    assert_equal(accumulated, two_processes(tmp_path / "two.pt", dropout))
    concatenated = update_gradient(8, dropout)
    if dropout == 0:  # dropout draws for the whole batch at once
        assert_equal(accumulated, concatenated)
        assert_equal(accumulated, update_gradient(4, dropout))
    else:
        name = "wav2vec2.encoder.stack.layers.0.fc1.weight"
        assert not torch.equal(accumulated[name], concatenated[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
